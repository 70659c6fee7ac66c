import { Option } from "commander";
import { type DeviceName, deviceNames } from "../runtime/open-device.ts";

/** `--device`, where a model is used and not trained. */
export const deviceOption = (): Option => new Option("--device <name>", "what computes").choices([...deviceNames]).default("cpu");

export interface DeviceFlag {
  device: DeviceName;
}
