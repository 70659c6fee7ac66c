import type { OnnxNode } from "./model-file.ts";

/** Metadata under which torch's newer exporter says which modules a node is from: a Python list of paths, from the model down to the function. */
const scopesKey = "pkg.torch.onnx.name_scopes";

/**
 * The path of the module that a node was exported from, where the file says: `/model/layers.0/self_attn/q_proj/MatMul` (torch's older exporter and what
 * builds on it) or the list of scopes in the node's metadata (the newer one) → `model.layers.0.self_attn.q_proj`.
 */
export function modulePath(node: OnnxNode): string | undefined {
  const scopes = node.metadata.get(scopesKey);
  if (scopes) return [...scopes.matchAll(/'([^']*)'/g)].map(([, path]) => path!).at(-2) || undefined;
  const parts = node.name.split("/").filter(Boolean);
  return parts.length > 1 ? parts.slice(0, -1).join(".") : undefined;
}

/** What the nodes of ours that a node becomes are called after. */
export const tracePath = (node: OnnxNode): string => modulePath(node) ?? node.name.replace(/^\//, "");

/** Names that exporters give to what had none: they say nothing of the model. */
export const isAnonymous = (initializer: string): boolean =>
  /^(\/|onnx::|val_|_v_|const_)/.test(initializer) || (/(^|_)\d+$/.test(initializer) && !/\.weight\b/.test(initializer));
