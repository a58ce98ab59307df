// Packs the project as npm would publish it, installs the package into an empty project, and uses it there as its users do: ESM, CommonJS,
// bundlers, strict TypeScript. Run by `npm run check:pack`.
import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { isBuiltin } from 'node:module'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { build } from 'esbuild'

interface Manifest {
  name: string
  main: string
  exports: Record<string, { default: string }>
  dependencies: Record<string, string>
  peerDependencies: Record<string, string>
  peerDependenciesMeta: Record<string, { optional: boolean }>
}

// The figures of docs/internals/package.md, with room for growth.
const MAX_PACKED_KB = 550
const MAX_FILES = 700

const root = resolve(import.meta.dirname, '../../..')
const manifest: Manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
/** Named exports only, and no plugin. */
const WITHOUT_PLUGIN = new Set(['./testing', './upstash'])
const subpaths = Object.keys(manifest.exports).filter(subpath => /^\.\/[\w-]+$/.test(subpath))
const plugins = subpaths.filter(subpath => !WITHOUT_PLUGIN.has(subpath))
const optional = Object.keys(manifest.peerDependenciesMeta)
const project = mkdtempSync(join(tmpdir(), 'pack-'))

function run (command: string, args: string[], cwd = project): string {
  console.log(`$ ${command} ${args.join(' ')}`)
  return execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
}

const install = (...packages: string[]) => run('npm', ['install', '--no-audit', '--no-fund', '--silent', ...packages])
const node = (...args: string[]) => run(process.execPath, args)
const specifierOf = (subpath: string) => `${manifest.name}${subpath.slice(1)}`

/** The name of a subpath's plugin in the main export: `./rate-limit` is `rateLimit`. */
const exportName = (subpath: string) => subpath.slice(2).replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase())

try {
  const tarball = pack()
  writeFileSync(join(project, 'package.json'), JSON.stringify({ private: true, type: 'module' }))
  cpSync(join(root, 'test/fixtures/pack'), project, { recursive: true })
  install(tarball, 'fastify', '@types/node@20')
  node('without-packages.mjs')
  checkTypes()
  install(...optional)
  checkImports()
  await checkBundles()
  checkTypes()
  node(join(root, 'node_modules/publint/src/cli.js'), root, '--strict')
  node(join(root, 'node_modules/@arethetypeswrong/cli/dist/index.js'), '--profile', 'esm-only', tarball)
  console.log(`the tarball works: ${manifest.name} and ${subpaths.join(', ')}`)
} finally {
  rmSync(project, { recursive: true, force: true })
}

/** @returns the path of the tarball */
function pack (): string {
  const [{ filename, files, size }] = JSON.parse(run('npm', ['pack', '--json', '--silent', '--pack-destination', project], root))
  console.log(`${filename}: ${files.length} files, ${Math.round(size / 1000)} kB`)
  const strangers = files.map((file: { path: string }) => file.path)
    .filter((path: string) => !/^(dist\/plugins\/.*\.(?:js|d\.ts)$|package\.json$|README\.md$|LICENSE$|CHANGELOG\.md$)/.test(path))
  if (strangers.length > 0) throw new Error(`not meant to be published: ${strangers.join(', ')}`)
  if (size > MAX_PACKED_KB * 1000 || files.length > MAX_FILES) throw new Error(`more than ${MAX_PACKED_KB} kB or ${MAX_FILES} files`)
  return join(project, filename)
}

function checkImports (): void {
  const same = (load: string) => [
    `if (Object.keys(suite).filter(name => name !== '__esModule').sort().join() !== '${plugins.map(exportName).sort().join()}') throw new Error(Object.keys(suite).join())`,
    ...plugins.map(subpath => `if ((${load}('${specifierOf(subpath)}')).default !== suite.${exportName(subpath)}) throw new Error('${subpath}')`)
  ]
  writeFileSync(join(project, 'index.mjs'), [`import * as suite from '${manifest.name}'`, ...same('await import')].join('\n'))
  node('index.mjs')
  node('app.mjs')
  node('testing.mjs')
  node('side-effects.mjs', ...subpaths.map(specifierOf), manifest.name)
  if (!process.features.require_module) return
  writeFileSync(join(project, 'index.cjs'), [`const suite = require('${manifest.name}')`, ...same('require')].join('\n'))
  node('index.cjs')
  node('commonjs.cjs')
}

/** A program that imports one plugin from the main export bundles none of the others; the dependencies of all subpaths are installed. */
async function checkBundles (): Promise<void> {
  const imported = new Set<string>()
  for (const subpath of plugins) {
    const { folders, packages } = await bundle(`export { ${exportName(subpath)} } from './node_modules/${manifest.name}/${manifest.main}'`)
    const others = [...folders].filter(folder => folder !== 'shared' && `./${folder}` !== subpath)
    if (others.length > 0 || !folders.has(subpath.slice(2))) throw new Error(`a bundle of ${subpath} is one of ${[...folders].join(', ')}`)
    for (const name of packages) imported.add(name)
  }
  for (const subpath of WITHOUT_PLUGIN) {
    const { packages } = await bundle(`export * from './node_modules/${manifest.name}/${manifest.exports[subpath]!.default}'`)
    for (const name of packages) imported.add(name)
  }
  // Only types are imported from Fastify.
  const installed = Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies }).filter(name => name !== 'fastify').sort()
  if ([...imported].sort().join() !== installed.join()) throw new Error(`imported are ${[...imported].sort().join()}, dependencies are ${installed.join()}`)
}

/** @returns the folders of `plugins/` that a program bundles, and the packages that it imports */
async function bundle (contents: string): Promise<{ folders: Set<string>, packages: string[] }> {
  const { metafile } = await build({
    stdin: { contents, resolveDir: project },
    bundle: true,
    platform: 'node',
    format: 'esm',
    packages: 'external',
    metafile: true,
    write: false,
    absWorkingDir: project
  })
  const outputs = Object.values(metafile.outputs)
  const parts = outputs.flatMap(({ inputs }) => Object.entries(inputs)).filter(([, { bytesInOutput }]) => bytesInOutput > 0)
  return {
    folders: new Set(parts.flatMap(([path]) => /\/plugins\/([\w-]+)\//.exec(path)?.[1] ?? [])),
    packages: outputs.flatMap(({ imports }) => imports).map(({ path }) => path).filter(path => !isBuiltin(path))
  }
}

/** Types are resolved as by ESM and CommonJS in Node.js, and as by bundlers. */
function checkTypes (): void {
  const common = {
    target: 'es2022', types: ['node'], strict: true, exactOptionalPropertyTypes: true, allowJs: true, checkJs: true, noEmit: true, skipLibCheck: false
  }
  const projects = {
    nodenext: { compilerOptions: { ...common, module: 'nodenext' }, files: ['consumer.ts', 'commonjs.cjs'] },
    bundler: { compilerOptions: { ...common, module: 'esnext', moduleResolution: 'bundler' }, files: ['consumer.ts'] }
  }
  for (const [name, config] of Object.entries(projects)) {
    const file = join(project, `tsconfig.${name}.json`)
    writeFileSync(file, JSON.stringify(config))
    console.log(node(join(root, 'node_modules/@typescript/native/bin/tsc'), '-p', file))
  }
}
