// Compiles fill.js to a component: fill.wasm.

import { writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { componentize } from '@bytecodealliance/componentize-js';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

const { component } = await componentize({
  sourcePath: here('fill.js'),
  // The world of an ordinary WASI program, from the WIT that the host is built with.
  witPath: here('../../guest-sdk/wit'),
  worldName: 'wasi:cli/command@0.2.12',
  // What the engine would import for APIs that a plugin does not use.
  disableFeatures: ['http', 'fetch-event'],
});
await writeFile(here('fill.wasm'), component);
