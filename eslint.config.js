import { dirname, relative, resolve } from 'node:path'
import neostandard from 'neostandard'

const forbid = (...patterns) => ({ 'no-restricted-imports': ['error', { patterns }] })
const OF_THE_CLOCK = 'Time comes from the clock that is handed in (plugins/shared/plugin/clock.ts), so that tests can advance it.'

// The layers of each plugin (see CONTRIBUTING.md): a folder, and the folders of the same plugin that it may import beside itself.
// Files at a plugin's top level import everything in it; those listed as leaves may be imported by every folder.
const LAYERS = {
  cache: {
    leaves: ['errors', 'events', 'options', 'stats'],
    folders: { rfc: [], store: [], tiers: ['store'], data: ['tiers', 'store'], http: ['tiers', 'store', 'rfc'] }
  },
  'rate-limit': {
    leaves: ['decision', 'errors', 'events', 'policy'],
    folders: { algorithms: [], options: [], store: ['options', 'algorithms'], limiter: ['store', 'options'], http: ['limiter', 'options'], api: ['http', 'limiter', 'options'] }
  },
  events: { leaves: ['errors', 'options'], folders: { pubsub: [], stream: [], sse: ['pubsub', 'stream'] } },
  session: { leaves: ['errors', 'session-diff', 'stats'], folders: { cookie: [], store: [] } },
  redis: { leaves: ['errors', 'options'], folders: { drivers: [] } },
  shared: { leaves: [], folders: { data: [], plugin: ['data'], redis: ['plugin'], http: ['plugin'], 'work-queue': ['redis', 'plugin'] } }
}

const ROOT = import.meta.dirname
const OWN_FOLDER = 'A plugin imports its own folder and shared/ only; plugins meet through Fastify decorators.'

/** Returns why a file under `plugins/` must not import another one, or undefined. Both are paths from `plugins/`. */
function whyNotImported (file, imported) {
  const [plugin, ...place] = file.split('/')
  const [other, ...otherPlace] = imported.split('/')
  if (plugin === 'index.ts') return undefined
  if (imported.startsWith('../')) return 'plugins/ imports nothing of the rest of the project.'
  if (other !== plugin) return other === 'shared' && plugin !== 'shared' ? undefined : OWN_FOLDER
  const layers = LAYERS[plugin]
  if (layers === undefined || place.length === 1) return undefined
  const [folder, otherFolder] = [place[0], otherPlace.length === 1 ? undefined : otherPlace[0]]
  if (folder === otherFolder) return undefined
  if (otherFolder === undefined) return layers.leaves.includes(otherPlace[0].replace(/\.js$/, '')) ? undefined : `${plugin}/${folder} imports none of the plugin's top level but ${layers.leaves.join(', ')}.`
  return layers.folders[folder]?.includes(otherFolder) ? undefined : `${plugin}/${folder} must not import ${plugin}/${otherFolder}: see LAYERS in eslint.config.js.`
}

const layers = {
  create (context) {
    const check = node => {
      if (!node.source?.value.startsWith('.')) return
      const imported = relative(`${ROOT}/plugins`, resolve(dirname(context.filename), node.source.value))
      const message = whyNotImported(relative(`${ROOT}/plugins`, context.filename), imported)
      if (message !== undefined) context.report({ node, message })
    }
    return { ImportDeclaration: check, ExportNamedDeclaration: check, ExportAllDeclaration: check }
  }
}

export default [
  ...neostandard({ ts: true, ignores: ['dist/**', 'coverage/**', '.tap/**', 'node_modules/**', 'docs/.vitepress/{cache,dist}/**'] }),
  {
    files: ['**/*.ts'],
    rules: { '@typescript-eslint/no-explicit-any': 'error' }
  },
  {
    // Time is a dependency: see plugins/shared/plugin/clock.ts.
    files: ['plugins/**/*.ts'],
    ignores: ['plugins/shared/plugin/clock.ts', 'plugins/testing/index.ts'],
    rules: {
      'no-restricted-globals': ['error', ...['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'performance'].map(name => ({ name, message: OF_THE_CLOCK }))],
      'no-restricted-properties': ['error', { object: 'Date', property: 'now', message: OF_THE_CLOCK }],
      'no-restricted-syntax': ['error', { selector: "NewExpression[callee.name='Date'][arguments.length=0]", message: OF_THE_CLOCK },
        { selector: "ImportDeclaration[source.value=/^(node:)?timers\\/promises$/] ImportSpecifier[imported.name!='setImmediate']", message: OF_THE_CLOCK },
        { selector: "ImportDeclaration[source.value='node:perf_hooks']", message: OF_THE_CLOCK }]
    }
  },
  {
    // Redis is reached through one port: see plugins/shared/redis/port.ts.
    files: ['plugins/**/*.ts'],
    ignores: ['plugins/redis/**', 'plugins/upstash/**', 'plugins/shared/redis/clients/**'],
    rules: {
      'no-restricted-imports': ['error', { paths: ['ioredis', 'iovalkey', 'redis', '@redis/client', '@upstash/redis'].map(name => ({ name, message: 'Only plugins/shared/redis/clients, plugins/redis and plugins/upstash name a client library.' })) }]
    }
  },
  {
    files: ['plugins/**/*.ts'],
    plugins: { suite: { rules: { layers } } },
    rules: {
      'suite/layers': 'error',
      '@stylistic/max-len': ['error', { code: 120, ignoreRegExpLiterals: true, ignoreUrls: true }]
    }
  },
  {
    files: ['{bench,demo,examples,public,routes,tools}/**/*.ts', '*.ts'],
    rules: {
      // SQL and HTML in templates keep their own lines.
      '@stylistic/max-len': ['error', { code: 120, ignoreRegExpLiterals: true, ignoreUrls: true, ignoreTemplateLiterals: true }]
    }
  },
  {
    files: ['routes/**/*.ts'],
    rules: forbid({ regex: 'plugins/|/app\\.js$|/server\\.js$|/test/', message: 'Routes meet the plugins through Fastify decorators only.' })
  },
  {
    // A bound on real time goes red on a busy machine. What is about milliseconds is in test/timing, judged against a heartbeat.
    files: ['test/**/*.ts'],
    ignores: ['test/run.ts', 'test/timing/**', 'test/stress/**', 'test/faults/**', 'test/helpers/**', 'test/fixtures/**'],
    rules: {
      'no-restricted-syntax': ['error', ...["CallExpression[callee.object.name='performance'][callee.property.name='now']",
        "BinaryExpression[operator=/^[<>]=?$/] CallExpression[callee.object.name='Date'][callee.property.name='now']",
        'ImportDeclaration[source.value=/stopwatch/]'].map(selector => ({ selector, message: 'Advance a test clock, or move the test to test/timing.' }))]
    }
  },
  {
    files: ['app.ts', 'server.ts', 'demo/**/*.ts'],
    rules: forbid(
      { regex: '/test/', message: 'Nothing imports the tests.' },
      { regex: 'plugins/shared/', message: 'The demo uses what a user of the package can use: import it from a public module of plugins/.' }
    )
  }
]
