import { existsSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { trace } from "../../src/graph/index.ts";
import { exp } from "../../src/ops/index.ts";
import type { Device } from "../../src/runtime/device.ts";

/**
 * The execution providers that this machine has, by name. `ESPALIER_PROVIDERS=cpu,wasm` restricts them.
 * WebGPU runs in Node on Chromium's SwiftShader, a Vulkan driver for the processor, wherever Chromium is installed.
 */
const driver = ["/usr/lib/chromium", "/usr/lib64/chromium", "/usr/lib/chromium-browser", "/snap/chromium/current/usr/lib/chromium-browser"]
  .map((directory) => join(directory, "vk_swiftshader_icd.json"))
  .find((file) => existsSync(file));

if (driver) {
  // Vulkan's loader reads these once, when ONNX Runtime first looks for a GPU.
  process.env.VK_ICD_FILENAMES ??= driver;
  process.env.VK_DRIVER_FILES ??= driver;
  preload(join(dirname(driver), "libvulkan.so.1"));
}

/**
 * Loads a shared library for good, so that a later search for its name finds it: Chromium ships Vulkan's loader in a directory of its own,
 * and LD_LIBRARY_PATH is read only when a process starts.
 */
function preload(library: string): void {
  const RTLD_NODELETE = 0x1000;
  try {
    process.dlopen({ exports: {} }, library, constants.dlopen.RTLD_NOW | constants.dlopen.RTLD_GLOBAL | RTLD_NODELETE);
  } catch {
    // Node looked for an addon in it and found none; the library stays loaded.
  }
}

const open: Record<string, () => Promise<Device>> = {
  cpu: async () => (await import("../../src/runtime/node.ts")).cpu({ threads: 1 }),
  wasm: async () => (await import("../../src/runtime/web.ts")).wasm({ threads: 1 }),
  webgpu: async () => (await import("../../src/runtime/node.ts")).webgpu(),
};

const devices = new Map<string, Promise<Device>>();

/** The device of a provider, opened once per test file. */
export function device(provider: string): Promise<Device> {
  let known = devices.get(provider);
  if (!known) {
    known = open[provider]!();
    devices.set(provider, known);
  }
  return known;
}

/** Whether the driver that was found works here; where it does not, the other providers are still worth testing. */
async function webgpuWorks(): Promise<boolean> {
  try {
    const program = await (await device("webgpu")).compile(trace({ x: { dtype: "float32", shape: [1] } }, ({ x }) => ({ y: exp(x) })));
    await program.run({ x: { dtype: "float32", shape: [1], data: Float32Array.of(0) } });
    await program.dispose();
    return true;
  } catch (error) {
    console.warn(`WebGPU is not tested: ${error instanceof Error ? error.message : error}`);
    return false;
  }
}

const named = process.env.ESPALIER_PROVIDERS?.split(",");

/** Names of the providers under test; CPU, the reference, comes first. */
export const providers: readonly string[] = named ?? ["cpu", "wasm", ...(driver && (await webgpuWorks()) ? ["webgpu"] : [])];
