// Packs the project as npm would publish it, installs that into an empty project, imports every subpath there
// and checks that its types resolve, from ESM and strict TypeScript. Run by `npm run check:pack`.
import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

const root = resolve(import.meta.dirname, '../..')
const manifest: { name: string, exports: Record<string, unknown> } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const project = mkdtempSync(join(tmpdir(), 'pack-'))

function run (command: string, args: string[], cwd = project): string {
  console.log(`$ ${command} ${args.join(' ')}`)
  return execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
}

/** The name that a subpath's plugin has in the main export: `./rate-limit` is `rateLimit`. */
const exportName = (subpath: string) => subpath.slice(2).replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase())

try {
  const [{ filename, files }] = JSON.parse(run('npm', ['pack', '--json', '--silent', '--pack-destination', project], root))
  console.log(`${filename}: ${files.length} files`)
  const strangers = files.map((file: { path: string }) => file.path)
    .filter((path: string) => !/^(dist\/plugins\/|plugins\/|package\.json$|README\.md$|LICENSE$|CHANGELOG\.md$)/.test(path))
  if (strangers.length > 0) throw new Error(`not meant to be published: ${strangers.join(', ')}`)

  const plugins = Object.keys(manifest.exports).filter(subpath => /^\.\/[\w-]+$/.test(subpath))
  writeFileSync(join(project, 'package.json'), JSON.stringify({ private: true, type: 'module' }))
  run('npm', ['install', '--no-audit', '--no-fund', '--silent', join(project, filename), 'fastify', '@types/node@20'])

  writeFileSync(join(project, 'index.mjs'), [
    `import * as suite from '${manifest.name}'`,
    `if (Object.keys(suite).sort().join() !== '${plugins.map(exportName).sort().join()}') throw new Error(Object.keys(suite).join())`,
    ...plugins.map(subpath => `if ((await import('${manifest.name}${subpath.slice(1)}')).default !== suite.${exportName(subpath)}) throw new Error('${subpath}')`)
  ].join('\n'))
  run('node', ['index.mjs'])

  cpSync(join(root, 'test/fixtures/consumer.ts'), join(project, 'consumer.ts'))
  writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({
    compilerOptions: {
      target: 'es2022', module: 'nodenext', types: ['node'], strict: true, exactOptionalPropertyTypes: true, noEmit: true, skipLibCheck: false
    },
    files: ['consumer.ts']
  }))
  console.log(run(process.execPath, [join(root, 'node_modules/@typescript/native/bin/tsc'), '-p', project]))
  run(process.execPath, [join(root, 'node_modules/publint/src/cli.js'), root, '--strict'])
  run(process.execPath, [join(root, 'node_modules/@arethetypeswrong/cli/dist/index.js'), '--profile', 'esm-only', join(project, filename)])
  console.log(`the tarball works: ${manifest.name} and ${plugins.join(', ')}`)
} finally {
  rmSync(project, { recursive: true, force: true })
}
