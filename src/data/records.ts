/** The room's face for Node: data files, read at once or piece by piece, and the cache of what was made of them. */
export { type CacheOptions, cacheDirectory, contentKey, contentKeyOf } from "./cache-directory.ts";
export { holdsConversations, readConversations } from "./conversations.ts";
export { dataFiles } from "./data-files.ts";
export { cachedDuplicateGroups } from "./duplicate-cache.ts";
export { type Example, type ReadOptions, readExamples } from "./examples.ts";
export { holdsImages, type ImageExample, type ImageReadOptions, readImageExamples } from "./image-examples.ts";
export { type OpenOptions, type OpenRecords, openConversations, openExamples } from "./record-index.ts";
export { cachedTable, encodedRecords, encodedTexts, type TokenCacheOptions, tokenizerKey } from "./token-cache.ts";
export { type TokenIds, TokenTable, TokenTableWriter } from "./token-table.ts";
