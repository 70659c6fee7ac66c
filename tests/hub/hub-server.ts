/**
 * A server that speaks the Hub's protocol, and a second one on another port that stands for its storage: large files are answered with a redirect to it.
 * Paths, statuses and headers are those that huggingface.co sends and that huggingface_hub, @huggingface/hub and their users rely on.
 */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { onTestFinished } from "vitest";

export interface HostedFile {
  bytes: Buffer;
  /** Large files are kept by their SHA-256 and served by the storage. */
  large: boolean;
}

export interface HostedRepo {
  commit: string;
  /** Further names of the commit; `main` is always one. */
  revisions?: string[];
  files: Map<string, HostedFile>;
  /** Its files are refused without the token; what the API says of it is public. */
  gated?: boolean;
  private?: boolean;
}

/** A request as it came in, and how many bytes of a body went out. */
export interface Served {
  server: "hub" | "storage";
  method: string;
  path: string;
  range?: string;
  authorization?: string;
  status: number;
  bytes: number;
}

export interface Faults {
  /** Bytes of a file's body after which the connection breaks; the first entry is for the first request of a body, and so on. */
  breaks?: number[];
  /** The storage answers every request from the start of the file. */
  ignoresRange?: boolean;
  /** Statuses of the first requests to the storage, before it behaves. */
  storageStatuses?: number[];
  /** Statuses of the first requests to the API. */
  apiStatuses?: number[];
  /** What the storage sends in place of the files' bytes. */
  replaced?: (bytes: Buffer, name: string) => Buffer;
  /** Bodies come without a length. */
  chunked?: boolean;
  /** The storage sends nothing after this many bytes, and keeps the connection open. */
  stallsAfter?: number;
}

export class HubServer {
  readonly repos = new Map<string, HostedRepo>();
  /** New names by old ones: requests for the old are redirected. */
  readonly renamed = new Map<string, string>();
  /** Files listed at a time; the rest is linked to. */
  pageSize = 1000;
  readonly served: Served[] = [];
  faults: Faults = {};
  /** The one token that is accepted, and that may read what is gated or private. */
  token = "hf_right";
  endpoint = "";
  readonly #hub: Server;
  readonly #storage: Server;

  private constructor() {
    this.#hub = createServer((request, response) => this.#answer("hub", request, response));
    this.#storage = createServer((request, response) => this.#answer("storage", request, response));
  }

  /** Started for one test. */
  static async start(): Promise<HubServer> {
    const server = new HubServer();
    for (const part of [server.#hub, server.#storage]) await new Promise<void>((resolve) => part.listen(0, "127.0.0.1", resolve));
    server.endpoint = originOf(server.#hub);
    onTestFinished(() => server.stop());
    return server;
  }

  stop(): void {
    for (const part of [this.#hub, this.#storage]) {
      part.close();
      part.closeAllConnections();
    }
  }

  /** Files over 1 kB are large ones. */
  host(repo: string, files: Readonly<Record<string, string | Buffer>>, options: Partial<HostedRepo> = {}): HostedRepo {
    const hosted = {
      commit: createHash("sha1")
        .update(JSON.stringify(Object.keys(files)) + repo)
        .digest("hex"),
      files: new Map(
        Object.entries(files).map(([name, content]) => {
          const bytes = Buffer.from(content);
          return [name, { bytes, large: bytes.length > 1000 }];
        }),
      ),
      ...options,
    };
    this.repos.set(repo, hosted);
    return hosted;
  }

  /** Requests for bodies of files, in order. */
  get bodies(): Served[] {
    return this.served.filter(({ method, path, status }) => method === "GET" && /\/(resolve|stored)\//.test(path) && status < 300);
  }

  #answer(server: "hub" | "storage", request: IncomingMessage, response: ServerResponse): void {
    const { method = "GET", url = "/", headers } = request;
    const path = decodeURIComponent(new URL(url, "http://host").pathname);
    const entry: Served = {
      server,
      method,
      path,
      range: headers.range,
      authorization: headers.authorization,
      status: 0,
      bytes: 0,
    };
    this.served.push(entry);
    response.on("close", () => (entry.status = response.statusCode));
    if (server === "storage") this.#store(path, request, response, entry);
    else this.#hubAnswer(path, request, response, entry);
  }

  #hubAnswer(path: string, request: IncomingMessage, response: ServerResponse, entry: Served): unknown {
    const api = /^\/api\/models\/(.+?)(?:\/(revision|tree|paths-info)\/(.+))?$/.exec(path);
    const resolve = /^\/(.+?)\/resolve\/([^/]+)\/(.+)$/.exec(path);
    const name = api?.[1] ?? resolve?.[1] ?? "";
    if (api) {
      const status = this.faults.apiStatuses?.shift();
      if (status !== undefined) return refuse(response, status, "", "out of order");
    }
    const newName = this.renamed.get(name);
    if (newName !== undefined) return response.writeHead(307, { location: request.url!.replace(name, newName) }).end();
    const given = request.headers.authorization;
    if (given !== undefined && given !== `Bearer ${this.token}`)
      return refuse(response, 401, "", "Invalid credentials in Authorization header");
    const repo = this.repos.get(name);
    const allowed = given !== undefined;
    if (!repo || (repo.private && !allowed)) return refuse(response, allowed ? 404 : 401, "RepoNotFound", "Repository not found");
    const revision = api ? (api[3] ?? "main") : resolve![2]!;
    if (![repo.commit, "main", ...(repo.revisions ?? [])].includes(revision))
      return refuse(response, 404, "RevisionNotFound", `Invalid rev id: ${revision}`);
    if (resolve) {
      if (repo.gated && !allowed) return refuse(response, 401, "GatedRepo", "Access to model is restricted.");
      return this.#resolve(repo, resolve[3]!, request, response, entry);
    }
    if (api?.[2] === "tree") return this.#list(repo, new URL(request.url!, this.endpoint), response);
    const siblings = [...repo.files.keys()].map((rfilename) => ({ rfilename }));
    return json(response, {
      _id: "0",
      id: name,
      sha: repo.commit,
      private: false,
      gated: false,
      downloads: 0,
      likes: 0,
      lastModified: "2024-01-01T00:00:00.000Z",
      siblings,
    });
  }

  #list({ files }: HostedRepo, url: URL, response: ServerResponse): unknown {
    const start = Number(url.searchParams.get("cursor") ?? 0);
    const end = start + this.pageSize;
    if (end < files.size) {
      url.searchParams.set("cursor", String(end));
      response.setHeader("link", `<${url.href}>; rel="next"`);
    }
    const entries = [...files].map(([path, { bytes, large }]) => ({
      type: "file",
      path,
      size: bytes.length,
      oid: gitBlob(bytes),
      ...(large && { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 130 } }),
    }));
    return json(response, entries.slice(start, end));
  }

  #resolve(repo: HostedRepo, name: string, request: IncomingMessage, response: ServerResponse, entry: Served): unknown {
    const file = repo.files.get(name);
    response.setHeader("x-repo-commit", repo.commit);
    if (!file) return refuse(response, 404, "EntryNotFound", "Entry not found");
    if (file.large) {
      response.setHeader("x-linked-etag", `"${sha256(file.bytes)}"`);
      response.setHeader("x-linked-size", file.bytes.length);
      return response.writeHead(302, { location: `${originOf(this.#storage)}/stored/${sha256(file.bytes)}?signature=s` }).end();
    }
    response.setHeader("etag", `"${gitBlob(file.bytes)}"`);
    return this.#send(file.bytes, name, request, response, entry);
  }

  #store(path: string, request: IncomingMessage, response: ServerResponse, entry: Served): unknown {
    const status = this.faults.storageStatuses?.shift();
    if (status !== undefined) return response.writeHead(status).end();
    for (const { files } of this.repos.values())
      for (const [name, { bytes }] of files)
        if (path === `/stored/${sha256(bytes)}`) return this.#send(bytes, name, request, response, entry);
    return response.writeHead(404).end();
  }

  #send(original: Buffer, name: string, request: IncomingMessage, response: ServerResponse, entry: Served): unknown {
    const bytes = this.faults.replaced?.(original, name) ?? original;
    const range = /^bytes=(\d+)-/.exec(request.headers.range ?? "");
    const start = range && !this.faults.ignoresRange ? Number(range[1]) : 0;
    if (start > 0 && start >= bytes.length) return response.writeHead(416, { "content-range": `bytes */${bytes.length}` }).end();
    const part = bytes.subarray(start);
    if (this.faults.chunked) response.setHeader("transfer-encoding", "chunked");
    else response.setHeader("content-length", part.length);
    if (range && !this.faults.ignoresRange) {
      response.statusCode = 206;
      response.setHeader("content-range", `bytes ${start}-${bytes.length - 1}/${bytes.length}`);
    }
    if (request.method === "HEAD") return response.end();
    const end = entry.server === "storage" ? (this.faults.breaks?.shift() ?? this.faults.stallsAfter) : undefined;
    if (end === undefined || end >= part.length) {
      entry.bytes = part.length;
      return response.end(part);
    }
    entry.bytes = end;
    const stalls = this.faults.stallsAfter === end;
    return response.write(part.subarray(0, end), () => stalls || setTimeout(() => response.destroy(), 50));
  }
}

function refuse(response: ServerResponse, status: number, code: string, message: string): unknown {
  response.writeHead(status, { ...(code && { "x-error-code": code }), "x-error-message": message, "content-type": "application/json" });
  return response.end(JSON.stringify({ error: message }));
}

const originOf = (server: Server): string => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

function json(response: ServerResponse, value: unknown): unknown {
  response.setHeader("content-type", "application/json");
  return response.end(JSON.stringify(value));
}

export const sha256 = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");

export const gitBlob = (bytes: Buffer): string => createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
