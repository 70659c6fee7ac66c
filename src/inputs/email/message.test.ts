import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { messageText } from "./message.ts";

const mail = (...lines: string[]) => new TextEncoder().encode(lines.join("\r\n"));
const textOf = (...lines: string[]) => messageText(mail(...lines));

describe("headers", () => {
  test("the sender's name and domain and the subject; nothing that gives the answer away", async () => {
    const text = await textOf(
      "From ada@example.org  Thu Aug 22 17:19:25 2002",
      "Return-Path: <bounce@secret.example>",
      "Delivered-To: me@secret.example",
      "Received: from secret.example by secret.example; Thu, 22 Aug 2002 17:19:25 +0100",
      "X-Spam-Status: Yes, hits=12.1",
      "X-Mailer: SecretMailer 1.0",
      "List-Id: <secret.example>",
      'From: "Ada Lovelace" <ada@example.org>',
      "To: me@secret.example",
      "Date: Thu, 22 Aug 2002 17:23:15 +0100",
      "Subject: Notes on",
      " the engine",
      "",
      "Dear Charles,",
    );
    expect(text).toBe("From: Ada Lovelace example.org\nSubject: Notes on the engine\n\nDear Charles,");
  });

  test("encoded words are decoded", async () => {
    const text = await textOf("From: =?iso-8859-1?q?Andr=E9?= <a@example.org>", "Subject: =?utf-8?B?Q2Fmw6k=?=", "", "x");
    expect(text).toBe("From: André example.org\nSubject: Café\n\nx");
  });

  test("an address as display name keeps only its domain", async () => {
    expect(await textOf('From: "joe77@example.org" <joe77@example.org>', "", "x")).toBe("From: example.org\nSubject:\n\nx");
  });

  test("missing headers leave empty lines", async () => {
    expect(await textOf("X-Nothing: 1", "", "only a body")).toBe("From:\nSubject:\n\nonly a body");
  });
});

const alternative = (plain: string, html: string) => [
  "From: a@example.org",
  "Subject: s",
  'Content-Type: multipart/alternative; boundary="b"',
  "",
  "--b",
  "Content-Type: text/plain; charset=utf-8",
  "",
  plain,
  "--b",
  "Content-Type: text/html; charset=utf-8",
  "",
  html,
  "--b--",
];

describe("body", () => {
  test("text/plain is preferred", async () => {
    expect(await textOf(...alternative("plain words", "<p>marked words</p>"))).toMatch(/\n\nplain words$/);
  });

  test("HTML where the plain part is empty; links keep their hosts; scripts, styles and images go", async () => {
    const html =
      '<style>p{}</style><p>Click <a href="http://user@Shop.Example:80/x?id=9">here</a> <img src="x" alt="pic"></p><script>alert(1)</script>';
    expect(await textOf(...alternative(" ", html))).toMatch(/\n\nClick here \[shop\.example\]$/);
  });

  test("HTML without a content type is recognised", async () => {
    const text = await textOf("From: a@example.org", "", "<html><body><h1>Rates &amp; loans</h1><p>Act now</p></body></html>");
    expect(text).toBe("From: example.org\nSubject:\n\nRates & loans\n\nAct now");
  });

  test("quoted-printable and 8-bit charsets", async () => {
    const head = ["From: a@example.org", "Content-Type: text/plain; charset=iso-8859-1", "Content-Transfer-Encoding: quoted-printable", ""];
    expect(await textOf(...head, "soft=", "ware for =A310")).toMatch(/\n\nsoftware for £10$/);
  });

  test("attachments are named in one line", async () => {
    const text = await textOf(
      "From: a@example.org",
      "Subject: s",
      'Content-Type: multipart/mixed; boundary="b"',
      "",
      "--b",
      "Content-Type: text/plain",
      "",
      "see the file",
      "--b",
      'Content-Type: application/pdf; name="table.pdf"',
      "Content-Disposition: attachment; filename=table.pdf",
      "Content-Transfer-Encoding: base64",
      "",
      "JVBERi0xLjQK",
      "--b",
      "Content-Type: image/gif",
      "Content-Transfer-Encoding: base64",
      "",
      "R0lGODlh",
      "--b--",
    );
    expect(text).toBe("From: example.org\nSubject: s\nAttachments: table.pdf (application/pdf), image/gif\n\nsee the file");
  });

  test("blanks, rules, blobs and long addresses are folded", async () => {
    const uuencoded = `M${"#0V1TY".repeat(10)}`;
    const text = await textOf(
      "From: a@example.org",
      "",
      "a\t \u00a0b",
      "",
      "",
      "---------------------------",
      "http://shop.example/track/9f8e7d?id=1&u=2 and more",
      "Zm9v".repeat(19),
      uuencoded,
      "vi\u200bag\u00adra",
    );
    expect(text.split("\n").slice(3)).toEqual(["a b", "", "---", "http://shop.example/ and more", "", "viagra"]);
  });
});

describe("garbage", () => {
  const check = async (bytes: Uint8Array) => {
    const text = await messageText(bytes);
    expect(text.startsWith("From:")).toBe(true);
    expect(text).not.toMatch(/\p{Cs}/u);
  };

  test("nothing, an mbox line alone, and nesting beyond the parser's limits", async () => {
    await check(new Uint8Array());
    await check(mail("From nobody"));
    const nested = Array.from({ length: 80 }, (_, i) => `Content-Type: multipart/mixed; boundary=b${i}\r\n\r\n--b${i}`);
    await check(mail(...nested, "", "deep"));
  });

  test("arbitrary bytes", async () => {
    await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 2000 }), check), { numRuns: 300 });
  });

  test("mail-like fragments in any order", async () => {
    const pieces = [
      ..."From: |Subject: |Content-Type: multipart/mixed; boundary=b|Content-Type: text/html|Content-Type: text/plain; charset=x|--b|--b--|<a href=".split(
        "|",
      ),
      ..."Content-Transfer-Encoding: base64|Content-Transfer-Encoding: quoted-printable|=?utf-8?q?=ff?=|=?x?b?####?=|&#xD800;|<table><tr>|<!--|\r\n|\n|\r\n\r\n|\0|http://".split(
        "|",
      ),
      "Content-Type: message/rfc822",
      "Content-Disposition: attachment; filename*=utf-8''%ff%",
    ];
    const fragment = fc.oneof(fc.constantFrom(...pieces), fc.string({ maxLength: 20 }));
    await fc.assert(
      fc.asyncProperty(fc.array(fragment, { maxLength: 40 }), (parts) => check(new TextEncoder().encode(parts.join("")))),
      { numRuns: 300 },
    );
  });

  test("hostile repetition takes no longer than its length", async () => {
    const started = performance.now();
    for (const piece of ["<", "<a ", "<table>", "http://", "a@", "&", "=?", "--", "\u200b", "(", "<!--", "<b", "begin 644 x\n"]) {
      await check(mail("Content-Type: text/html", "", piece.repeat(30_000)));
      await check(mail(`From: ${piece.repeat(5000)}`, "", piece.repeat(30_000)));
    }
    expect(performance.now() - started).toBeLessThan(20_000);
  });
});
