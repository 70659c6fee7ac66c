/** What names a model on the Hugging Face Hub: `org/name`, an old `name`, `…@revision`, `org/name/file.gguf`. */
import { EspalierError } from "../../graph/errors.ts";
import { isInnerPath } from "../inner-path.ts";
import { quoteName } from "../safetensors-header.ts";

export interface HubId {
  /** `org/name`, or a bare `name` of the Hub's first years, such as `gpt2`. */
  repo: string;
  /** Branch, tag or commit. */
  revision?: string;
  /** A GGUF file in the repository. */
  file?: string;
}

const segment = /^\w(?:[\w.-]{0,94}\w)?$/;
const fileEnding = /\.(?:gguf|safetensors|bin|onnx|json|jsonl|txt|csv|git)$/i;

/** The parts of a name, or `undefined` where it cannot be one: `./x`, `/x`, `a/b/c`, `model.gguf` and the like are paths. */
export function parseHubId(text: string): HubId | undefined {
  const at = text.indexOf("@");
  const revision = at < 0 ? undefined : text.slice(at + 1);
  const [first, second, ...rest] = (at < 0 ? text : text.slice(0, at)).split("/");
  const names = second === undefined ? [first!] : [first!, second];
  if (!names.every(isName) || (revision !== undefined && !isRevision(revision))) return undefined;
  const file = rest.length > 0 ? rest.join("/") : undefined;
  if (file !== undefined && !(/\.gguf$/i.test(file) && isInnerPath(file))) return undefined;
  return { repo: names.join("/"), ...(revision !== undefined && { revision }), ...(file !== undefined && { file }) };
}

/** As {@link parseHubId}, or an error that says how a name reads. */
export function requireHubId(text: string, options: { revision?: string; file?: string }): HubId {
  const id = parseHubId(text);
  if (!id)
    throw new EspalierError(
      "hub-id",
      `${quoteName(text)} is not the name of a model on the Hugging Face Hub. Such names read org/name, org/name@revision or org/name/file.gguf.`,
    );
  const { revision = id.revision, file = id.file } = options;
  if (revision !== undefined && !isRevision(revision))
    throw new EspalierError("hub-id", `${quoteName(revision)} cannot be a revision of ${id.repo}. Give a branch, a tag or a commit.`);
  if (file !== undefined && !(/\.gguf$/i.test(file) && isInnerPath(file)))
    throw new EspalierError("hub-id", `${quoteName(file)}: the file of ${id.repo} must be a .gguf file, by its path in the repository.`);
  return { repo: id.repo, ...(revision !== undefined && { revision }), ...(file !== undefined && { file }) };
}

export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

const isName = (name: string): boolean => segment.test(name) && !/--|\.\./.test(name) && !fileEnding.test(name);

/** A git reference; it becomes a file's name under `refs/`. */
const isRevision = (revision: string): boolean => isInnerPath(revision) && !/[\s~^?*[]|\.\.|^-/.test(revision);
