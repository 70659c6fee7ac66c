import { Command } from "commander";
import { z } from "zod";
import { EspalierError, nearestNames } from "../../graph/index.ts";
import { catalogue } from "../../methods/catalogue.ts";
import { Terminal } from "../terminal.ts";

export function methodsCommand(): Command {
  return new Command("methods")
    .description("List the published methods that can be used, or show one.")
    .argument("[slug]", "show this method's card and options")
    .option("--json", "print the result as one JSON object in the last line")
    .action((slug: string | undefined, flags: { json?: boolean }) => {
      const terminal = new Terminal();
      if (slug === undefined) {
        for (const { card } of catalogue) terminal.line(`${card.slug.padEnd(16)} ${card.family.padEnd(12)} ${card.summary}`);
        if (flags.json) terminal.json({ methods: catalogue.map((m) => m.card) });
        return;
      }
      const method = catalogue.find((m) => m.card.slug === slug);
      if (!method)
        throw new EspalierError(
          "no-method",
          `There is no method "${slug}". Nearest: ${nearestNames(
            slug,
            catalogue.map((m) => m.card.slug),
            1,
          ).join()}.`,
        );
      const { card } = method;
      const options = z.toJSONSchema(method.schema, { io: "input" }) as {
        properties?: Record<string, { type?: string; default?: unknown; enum?: unknown[] }>;
      };
      terminal.line(`${card.slug}: ${card.summary}`);
      terminal.line(`${card.paper.authors}, "${card.paper.title}" (${card.paper.year})`);
      terminal.line(`changes: ${card.seams.join(", ")}`);
      for (const [name, option] of Object.entries(options.properties ?? {}))
        terminal.line(
          `  ${name.padEnd(16)} ${(option.enum?.join(" | ") ?? option.type ?? "").padEnd(24)} default ${JSON.stringify(option.default)}`,
        );
      if (flags.json) terminal.json({ ...card, options: options.properties });
    });
}
