import { Module } from "../../nn/index.ts";
import type { Device } from "../../runtime/index.ts";

/** A layer that stands on another and changes what it computes. */
export abstract class AdapterLayer extends Module {
  /** A plain layer that computes the same, with the values that `device` holds. */
  abstract merged(device: Device): Module;
}
