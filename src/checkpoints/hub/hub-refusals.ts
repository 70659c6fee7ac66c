/** What the Hub's refusals mean, in words for the person who asked. Its header X-Error-Code tells most of them apart. */
import { EspalierError } from "../../graph/errors.ts";
import { quoteName } from "../safetensors-header.ts";
import type { HubEnvironment } from "./hub-environment.ts";

export interface Asked extends HubEnvironment {
  repo: string;
  revision: string;
  file: string | undefined;
}

/** @returns EspalierError `hub-token`, `hub-gated`, `hub-revision`, `hub-file-missing`, `hub-missing`, `hub-forbidden` or `hub-refused` */
export function refuse({ status, headers }: Response, { endpoint, token, repo, revision, file }: Asked): EspalierError {
  const code = headers.get("x-error-code");
  const said = headers.get("x-error-message");
  const tokens = `${endpoint}/settings/tokens`;
  if (status === 401 && said?.startsWith("Invalid credentials"))
    return new EspalierError(
      "hub-token",
      token
        ? `${endpoint} refuses the access token from ${token.source}. Make a new one at ${tokens}, or remove it: public models need none.`
        : `${endpoint} wants an access token. Make one at ${tokens} and set HF_TOKEN to it.`,
    );
  if (code === "GatedRepo")
    return new EspalierError(
      "hub-gated",
      `${repo} is gated: its owner gives it to those who accept its terms. Ask for access at ${endpoint}/${repo}` +
        (token
          ? ` with the account of the access token from ${token.source}, whose rights must include gated repositories.`
          : `, make an access token of that account at ${tokens}, and set HF_TOKEN to it.`),
    );
  if (code === "RevisionNotFound")
    return new EspalierError(
      "hub-revision",
      `${repo} has no branch, tag or commit ${quoteName(revision)}. ${endpoint}/${repo}/tree/main shows which there are.`,
    );
  if (code === "EntryNotFound")
    return new EspalierError(
      "hub-file-missing",
      `${repo} has no file ${quoteName(file ?? "")} at ${revision}. See ${endpoint}/${repo}/tree/main.`,
    );
  if (code === "RepoNotFound" || status === 401 || status === 404)
    return new EspalierError(
      "hub-missing",
      `There is no model ${repo} on ${endpoint}, or it is private. Check the name` +
        (token
          ? `, and that the account of the access token from ${token.source} may read it.`
          : `; for a private model, set HF_TOKEN to an access token of an account that may read it (${tokens}).`),
    );
  const words = said ? `: ${quoteName(said)}` : "";
  if (status === 403)
    return new EspalierError(
      "hub-forbidden",
      `${endpoint} forbids ${repo}${words}. ${token ? `Check the rights of the access token from ${token.source} at ${tokens}.` : `Set HF_TOKEN to an access token that may read it (${tokens}).`}`,
    );
  return new EspalierError("hub-refused", `${endpoint} answers ${status} when asked for ${repo}${words}. See ${endpoint}/${repo}.`);
}
