// Compiles all TypeScript of the project at once: tsx would compile the same modules again in each process, which takes most of a small test file's
// time. `register.js` loads the compiled modules.
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { build } from 'esbuild'
import { scratchDir } from '../../../tools/servers/scratch.js'

const root = join(import.meta.dirname, '../../..')
const FOLDERS = ['plugins', 'routes', 'demo', 'test', 'examples', 'bench', 'tools', 'docs/.vitepress']

/**
  * Compiles the present sources.
 *
 * @returns the folder of the compiled modules, for the environment variable `TEST_COMPILED`; it is removed with this process
 */
export async function compileAll (): Promise<string> {
  const nested = FOLDERS.flatMap(folder => readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }).map(name => join(folder, name)))
  const entryPoints = [...readdirSync(root), ...nested].filter(name => name.endsWith('.ts') && !name.endsWith('.d.ts')).map(name => join(root, name))
  // Written as if beside the sources, so that the source maps have the right paths. For another platform, NODE_ENV would be replaced.
  const { outputFiles } = await build({
    entryPoints, outdir: root, outbase: root, write: false, platform: 'node', format: 'esm', target: 'node20', sourcemap: 'inline', sourcesContent: false
  })
  const folder = scratchDir()
  for (const { path, contents } of outputFiles) {
    const file = join(folder, relative(root, path))
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, contents)
  }
  return folder
}
