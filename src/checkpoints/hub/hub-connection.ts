/** Requests to the Hub. The token goes to the endpoint alone, never to where a redirect leads; what may pass is told from what will not. */
import { setTimeout as sleep } from "node:timers/promises";
import { EspalierError } from "../../graph/errors.ts";
import type { HubEnvironment } from "./hub-environment.ts";
import { isCommit } from "./hub-id.ts";
import { refuse } from "./hub-refusals.ts";

/** No answer, a broken connection, a server in trouble: another attempt may succeed. */
export class HubFailure extends EspalierError {
  /** Seconds that the server asks to wait. */
  readonly retryAfter: number;

  constructor(message: string, options: { cause?: unknown; retryAfter?: number } = {}) {
    super("hub-unreachable", message, options);
    this.retryAfter = options.retryAfter ?? 0;
  }
}

/** A file as the Hub lists it. */
export interface RemoteFile {
  name: string;
  /** In bytes. */
  size: number;
  /** SHA-256 of a large file's bytes, or the git blob id (SHA-1) of a small one; also its name in the cache. */
  hash: string;
}

/** A snapshot of a repository. */
export interface Listing {
  commit: string;
  files: ReadonlyMap<string, RemoteFile>;
}

/** What comes of a request for a file's bytes; `stop` must be called when its body has been read or is no longer wanted. */
export interface Download {
  response: Response;
  /** Puts off the moment at which the connection counts as stalled. */
  alive(): void;
  stop(): void;
}

const attempts = 5;
/** Seconds; small answers come soon or not at all. */
const listTimeout = 10;
const maximumRedirects = 10;

export class HubConnection {
  readonly environment: HubEnvironment;
  readonly #signal: AbortSignal | undefined;
  readonly #timeout: number;

  /** @param options.timeout seconds without a byte after which a connection counts as broken */
  constructor(environment: HubEnvironment, options: { signal?: AbortSignal; timeout?: number } = {}) {
    this.environment = environment;
    this.#signal = options.signal;
    this.#timeout = options.timeout ?? 30;
  }

  /** The commit of a revision (`main` unless told), and its files. `limit`: attempts at each request. */
  async list(repo: string, revision: string | undefined, limit = 3): Promise<Listing> {
    const { listFiles, modelInfo } = await import("@huggingface/hub"); // late: most commands need no network
    const fetch = (url: string | URL | Request) => this.#json(new URL(String(url)), repo, revision, limit);
    const common = { hubUrl: this.environment.endpoint, fetch };
    const commit =
      revision !== undefined && isCommit(revision)
        ? revision
        : (await modelInfo({ name: repo, revision: revision ?? "main", additionalFields: ["sha"], ...common })).sha;
    if (!isCommit(commit)) throw strange(`the commit of ${repo}`, commit);
    const files = new Map<string, RemoteFile>();
    for await (const { type, path: name, size, oid, lfs } of listFiles({ repo, revision: commit, recursive: true, ...common })) {
      if (type !== "file") continue;
      const file = { name, size: lfs?.size ?? size, hash: lfs?.oid ?? oid ?? "" };
      if (!/^(?:[0-9a-f]{40}|[0-9a-f]{64})$/.test(file.hash) || !Number.isSafeInteger(file.size) || file.size < 0)
        throw strange(`the file ${JSON.stringify(name)} of ${repo}`, file);
      files.set(name, file);
    }
    return { commit, files };
  }

  /** Asks for a file's bytes from `offset` on. */
  async download(repo: string, commit: string, name: string, offset: number): Promise<Download> {
    const path = name.split("/").map(encodeURIComponent).join("/");
    const download = await this.#request(new URL(`${this.environment.endpoint}/${repo}/resolve/${commit}/${path}`), {
      "accept-encoding": "identity", // a compressed answer has other lengths and ranges
      ...(offset > 0 && { range: `bytes=${offset}-` }),
    });
    if (download.response.ok || download.response.status === 416) return download;
    download.stop();
    throw this.#refusal(download.response, repo, commit, name);
  }

  /** Runs `attempt` again after failures that may pass, with growing pauses, until `attempts` of them made no headway. */
  async persist<T>(attempt: () => Promise<T>, headway: () => boolean = () => false, limit: number = attempts): Promise<T> {
    for (let failures = 0; ; ) {
      try {
        return await attempt();
      } catch (error) {
        this.#signal?.throwIfAborted();
        if (!(error instanceof HubFailure)) throw error;
        failures = headway() ? 1 : failures + 1;
        if (failures >= limit) throw error;
        await sleep(Math.max(250 * 2 ** (failures - 1), 1000 * Math.min(error.retryAfter, 60)), undefined, { signal: this.#signal });
      }
    }
  }

  #json(url: URL, repo: string, revision: string | undefined, limit: number): Promise<Response> {
    return this.persist(
      async () => {
        const { response, stop } = await this.#request(url, { accept: "application/json" }, Math.min(this.#timeout, listTimeout));
        try {
          if (!response.ok) throw this.#refusal(response, repo, revision);
          const text = await response.text().catch((cause) => {
            throw this.broken(cause, url.origin);
          });
          try {
            JSON.parse(text);
          } catch (cause) {
            throw new EspalierError(
              "hub-answer",
              `${url.origin} does not answer as the Hugging Face Hub does: what came for ${url.pathname} is not JSON. Check HF_ENDPOINT, and whether a network login page stands between.`,
              { cause },
            );
          }
          return new Response(text, { headers: response.headers });
        } finally {
          stop();
        }
      },
      undefined,
      limit,
    );
  }

  async #request(url: URL, headers: Record<string, string>, timeout = this.#timeout): Promise<Download> {
    const stall = new AbortController();
    const timer = setTimeout(() => stall.abort(new Error(`no answer for ${timeout} s`)), 1000 * timeout);
    const signal = this.#signal ? AbortSignal.any([this.#signal, stall.signal]) : stall.signal;
    const end = new AbortController();
    const stop = () => {
      clearTimeout(timer);
      end.abort();
    };
    try {
      const response = await this.#follow(url, headers, AbortSignal.any([signal, end.signal]));
      return { response, alive: () => timer.refresh(), stop };
    } catch (cause) {
      stop();
      this.#signal?.throwIfAborted();
      throw cause instanceof EspalierError ? cause : this.broken(cause, url.origin);
    }
  }

  async #follow(start: URL, headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
    const { endpoint, token } = this.environment;
    let url = start;
    for (let hops = 0; hops < maximumRedirects; hops++) {
      const trusted = token && url.origin === new URL(endpoint).origin;
      const sent = { "user-agent": "espalier", ...headers, ...(trusted && { authorization: `Bearer ${token.value}` }) };
      const response = await fetch(url, { headers: sent, redirect: "manual", signal });
      const location = response.headers.get("location");
      if (response.status < 300 || response.status >= 400 || location === null) {
        if (response.ok || url.origin === start.origin || response.status === 416) return response;
        await response.body?.cancel();
        throw new HubFailure(`${url.origin}, where the Hub keeps the file's bytes, answers ${response.status}.`); // a signed address may have run out
      }
      await response.body?.cancel();
      const next = URL.canParse(location, url.href) ? new URL(location, url) : undefined;
      if (!next || !/^https?:$/.test(next.protocol) || (url.protocol === "https:" && next.protocol === "http:"))
        throw strange(`the redirect from ${url.origin}`, location);
      url = next;
    }
    throw strange(start.origin, `more than ${maximumRedirects} redirects`);
  }

  #refusal(response: Response, repo: string, revision: string | undefined, file?: string): EspalierError {
    const { status, headers } = response;
    if (status === 408 || status === 429 || status >= 500) {
      const what = status === 429 ? "wants fewer requests (429)" : `is in trouble (${status})`;
      const retryAfter = Number(headers.get("retry-after")) || 0;
      return new HubFailure(`${this.environment.endpoint} ${what}. Try again later.`, { retryAfter });
    }
    return refuse(response, { ...this.environment, repo, revision: revision ?? "main", file });
  }

  /** What became of a connection to `origin`, the endpoint unless told. */
  broken(cause: unknown, origin: string = new URL(this.environment.endpoint).origin): HubFailure {
    const inner = (cause as Error).cause ?? cause;
    const { code, message } = inner as NodeJS.ErrnoException;
    return new HubFailure(`${origin} cannot be reached (${code ?? message}). Check the connection, and HF_ENDPOINT if it is set.`, {
      cause,
    });
  }
}

const strange = (what: string, got: unknown): EspalierError =>
  new EspalierError(
    "hub-answer",
    `The Hub's answer on ${what} is not to be trusted: ${JSON.stringify(got)?.slice(0, 200)}. Check HF_ENDPOINT, and do not use this repository unless you know why.`,
  );
