/**
 * Element types of GGUF tensors by their number in the file. Quantised types store whole blocks of values of one row: a row's length is
 * a multiple of `blockSize`, and each block takes `blockBytes`. A float is a block of one.
 */
export interface GgmlType {
  readonly name: string;
  /** Values per block. */
  readonly blockSize: number;
  readonly blockBytes: number;
}

const type = (name: string, blockSize: number, blockBytes: number): GgmlType => ({ name, blockSize, blockBytes });

/** The types whose values are read. */
export const readableTypes: ReadonlyMap<number, GgmlType> = new Map([
  [0, type("F32", 1, 4)],
  [1, type("F16", 1, 2)],
  [2, type("Q4_0", 32, 18)],
  [3, type("Q4_1", 32, 20)],
  [6, type("Q5_0", 32, 22)],
  [7, type("Q5_1", 32, 24)],
  [8, type("Q8_0", 32, 34)],
  [12, type("Q4_K", 256, 144)],
  [13, type("Q5_K", 256, 176)],
  [14, type("Q6_K", 256, 210)],
  [30, type("BF16", 1, 2)],
]);

/** The others that llama.cpp has, so that a refusal can name them. */
export const otherTypeNames: ReadonlyMap<number, string> = new Map([
  [9, "Q8_1"],
  [10, "Q2_K"],
  [11, "Q3_K"],
  [15, "Q8_K"],
  [16, "IQ2_XXS"],
  [17, "IQ2_XS"],
  [18, "IQ3_XXS"],
  [19, "IQ1_S"],
  [20, "IQ4_NL"],
  [21, "IQ3_S"],
  [22, "IQ2_S"],
  [23, "IQ4_XS"],
  [24, "I8"],
  [25, "I16"],
  [26, "I32"],
  [27, "I64"],
  [28, "F64"],
  [29, "IQ1_M"],
  [34, "TQ1_0"],
  [35, "TQ2_0"],
  [39, "MXFP4"],
  [40, "NVFP4"],
]);
