/** Devices by name, tried out before they are handed on: what a machine lacks is said at once, and what to install. */
import { EspalierError, trace } from "../graph/index.ts";
import { type ComputeDtype, cast, matmul, sum } from "../ops/index.ts";
import { type Device, hostTensor } from "./device.ts";
import { cpu, cuda, type GpuOptions, knownProviders, webgpu } from "./node.ts";

export const deviceNames = ["cpu", "webgpu", "cuda"] as const;
export type DeviceName = (typeof deviceNames)[number];

/**
 * The device of a name: the processor, or the graphics processor through WebGPU or CUDA. Through WebGPU weights and moments stay there from step to step,
 * unless `keepsState` is false.
 *
 * @throws EspalierError `no-device` where this machine or this ONNX Runtime lacks it, `unsupported-compute` where it does not know the type; the message
 * says what to install or to choose
 */
export async function openDevice(name: DeviceName, { compute = "float32", ...options }: GpuOptions = {}): Promise<Device> {
  if (name === "cpu") {
    if (compute === "float32" || compute === "int8") return cpu({ ...options, compute });
    throw new EspalierError(
      "unsupported-compute",
      `The processor has no matrix products in ${compute}: ONNX Runtime would widen every operand first. Compute in float32 or int8, or choose a graphics processor.`,
    );
  }
  if (compute === "int8")
    throw new EspalierError(
      "unsupported-compute",
      "Products in int8 are for the processor. Compute in float32 or 16 bits, or choose the device cpu.",
    );
  if (!knownProviders().includes(name))
    throw new EspalierError(
      "no-device",
      `ONNX Runtime has no ${providers[name]} on ${process.platform}/${process.arch}. Choose another device: ${others(name)}.`,
    );
  const device = name === "webgpu" ? webgpu({ keepsState: true, ...options, compute }) : cuda({ ...options, compute });
  try {
    await tryOut(device, "float32");
  } catch (cause) {
    await device.dispose();
    throw new EspalierError("no-device", `${missing(name, cause)} Or choose another device: ${others(name)}.`, { cause });
  }
  if (compute === "float32") return device;
  try {
    await tryOut(device, compute);
    return device;
  } catch (cause) {
    await device.dispose();
    throw new EspalierError(
      "unsupported-compute",
      `The ${providers[name]} of this machine computes no matrix products in ${compute}: ${reasonOf(cause)}. Compute in float32.`,
      { cause },
    );
  }
}

const providers = { webgpu: "WebGPU provider", cuda: "CUDA provider" };
const others = (name: DeviceName): string => deviceNames.filter((other) => other !== name).join(" or ");

/** What to do about a device that cannot be opened. */
export function missing(name: Exclude<DeviceName, "cpu">, cause: unknown): string {
  if (name === "webgpu") {
    const driver =
      process.platform === "linux"
        ? "Install the driver of the graphics processor with its Vulkan part and Vulkan's loader (Debian and Ubuntu: apt install libvulkan1 mesa-vulkan-drivers, or NVIDIA's driver)."
        : "Install the newest driver of the graphics processor.";
    return `WebGPU finds no graphics processor that it can use (${reasonOf(cause)}). ${driver}`;
  }
  // The libraries are too large for npm's registry: the package fetches them when it is installed, unless it is told not to.
  const libraries = "ONNXRUNTIME_NODE_INSTALL=cuda12 npm rebuild onnxruntime-node --foreground-scripts";
  return `CUDA cannot be used (${reasonOf(cause)}). It needs Linux on x64, an NVIDIA driver, CUDA 12 and cuDNN 9 where the system's loader finds them, and ONNX Runtime's own part: ${libraries}.`;
}

/** ONNX Runtime's first line, without the places in its source. */
function reasonOf(cause: unknown): string {
  const first = (cause instanceof Error ? cause.message : String(cause)).split("\n")[0]!;
  return first
    .replace(/^ONNX Runtime refused the compiled graph: /, "")
    .replace(/^(Error: )?\S+\.(cc|h):\d+ [\s\S]*? was false\.\s*/, "")
    .trim();
}

/** A small product with what a step has around it: a session that opens may yet find no kernel, or another number. */
async function tryOut(device: Device, dtype: ComputeDtype): Promise<void> {
  const x = hostTensor("float32", [2, 2], Float32Array.of(1, 2, 3, 4));
  const program = await device.compile(trace({ x }, (i) => ({ y: sum(cast(matmul(cast(i.x, dtype), cast(i.x, dtype)), "float32")) })));
  try {
    const { y } = await program.run({ x });
    if (Number(y!.data[0]) !== 54) throw new Error(`1·1 + … came out as ${y!.data[0]} instead of 54`);
  } finally {
    await program.dispose();
  }
}
