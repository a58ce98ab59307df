import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import t from 'tap'
import { root } from '../helpers/docs/doc-blocks.js'

// The exports of plugins/: one type has one name, and a file exports only what another file uses.

interface Export {
  file: string
  name: string
  isType: boolean
}

const FOLDERS = ['plugins', 'test', 'bench', 'demo', 'routes', 'examples']
const files = FOLDERS.flatMap(folder => readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
  .filter(name => name.endsWith('.ts')).map(name => `${folder}/${name}`))
const textOf = (file: string): string => readFileSync(join(root, file), 'utf8')

/** The modules of the package: their exports are public. */
const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { exports: Record<string, unknown> }
const publicFiles = new Set(JSON.stringify(exports).match(/plugins\/[\w/-]+(?=\.js)/g)?.map(path => `${path}.ts`))

const DECLARED = /^export (?:declare )?(?:async )?(?:(type|interface|class)|const|let|function\*?|enum|abstract class) (\w+)/gm
const LIST = /\b(?:import|export)\s+(type\s+)?(?:\w+,\s*)?\{([^}]*)\}\s*from\s*'(\.[^']+)'/g
/** `const { a } = await … import('./file.js')` */
const DYNAMIC = /\bconst()\s+\{([^}]*)\} = await .*?\bimport\('(\.[^']+)'\)/g

/** `export type * from './file.js'` */
const ALL = /^export type \* from '(\.[^']+)'/gm

function exportsOf (file: string): Export[] {
  return [...textOf(file).matchAll(DECLARED)].map(([, kind, name = '']) => ({ file, name, isType: kind === 'type' || kind === 'interface' || kind === 'class' }))
}

/** Returns `file name` of each name that a file imports from another one, or exports from it. */
function importsOf (file: string): string[] {
  const text = textOf(file)
  const targetOf = (path: string) => normalize(join(dirname(file), path)).replace(/\.js$/, '.ts')
  const listed = [LIST, DYNAMIC].flatMap(form => [...text.matchAll(form)]).flatMap(([, , list = '', path = '']) => {
    return list.split(',').map(each => each.trim().replace(/^type\s+/, '').split(/\s+as\s+/)[0] ?? '').filter(name => name !== '').map(name => `${targetOf(path)} ${name}`)
  })
  const all = [...text.matchAll(ALL)].flatMap(([, path = '']) => exportsOf(targetOf(path))).map(({ file, name }) => `${file} ${name}`)
  return [...listed, ...all]
}

/** Types that no file imports, but that the declarations of another file have to name. */
const NAMED_BY_DECLARATIONS = new Set(['plugins/shared/plugin/backoff.ts Backoff'])

const exported = files.filter(file => file.startsWith('plugins/')).flatMap(exportsOf)

t.test('each exported type of plugins/ has a name of its own', t => {
  const byName = new Map<string, string[]>()
  for (const { file, name, isType } of exported) if (isType) byName.set(name, [...byName.get(name) ?? [], file])
  t.ok(byName.size > 100, `${byName.size} types`)
  t.same([...byName].filter(([, files]) => files.length > 1).map(([name, files]) => `${name}: ${files.join(', ')}`), [])
  t.end()
})

t.test('each export of plugins/ is public or imported by another file', t => {
  const imported = new Set(files.flatMap(importsOf))
  t.ok(publicFiles.size > 8 && imported.size > 500, `${publicFiles.size} public files, ${imported.size} imports`)
  const isUsed = (file: string, name: string): boolean => [imported, NAMED_BY_DECLARATIONS].some(names => names.has(`${file} ${name}`))
  t.same(exported.filter(({ file, name }) => !publicFiles.has(file) && !isUsed(file, name)).map(({ file, name }) => `${file}: ${name}`), [])
  t.end()
})
