// Loads a module of the page. Node would take its ending, .js, for CommonJS; a data URL is a module always.
import { readFileSync } from "node:fs";

export function load(name) {
  const source = readFileSync(new URL(`../../../clippo/web/page/${name}`, import.meta.url), "utf8");
  return import(`data:text/javascript,${encodeURIComponent(source)}`);
}
