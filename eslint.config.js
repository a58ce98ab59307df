import neostandard from 'neostandard'

// The arrows of the house (see CONTRIBUTING.md): a plugin reaches its own folder and plugins/shared, nothing else.
const forbid = (...patterns) => ({ 'no-restricted-imports': ['error', { patterns }] })
const OWN_FOLDER = 'A plugin imports its own folder and shared/ only; plugins meet through Fastify decorators.'
const OF_THE_CLOCK = 'Time comes from the clock that is handed in (plugins/shared/clock.ts), so that tests can advance it.'

export default [
  ...neostandard({ ts: true, ignores: ['dist/**', 'coverage/**', '.tap/**', 'node_modules/**'] }),
  {
    files: ['**/*.ts'],
    rules: { '@typescript-eslint/no-explicit-any': 'error' }
  },
  {
    // Time is a dependency: see plugins/shared/clock.ts.
    files: ['plugins/**/*.ts'],
    ignores: ['plugins/shared/clock.ts', 'plugins/testing/index.ts'],
    rules: {
      'no-restricted-globals': ['error', ...['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'performance'].map(name => ({ name, message: OF_THE_CLOCK }))],
      'no-restricted-properties': ['error', { object: 'Date', property: 'now', message: OF_THE_CLOCK }],
      'no-restricted-syntax': ['error', { selector: "NewExpression[callee.name='Date'][arguments.length=0]", message: OF_THE_CLOCK },
        { selector: "ImportDeclaration[source.value=/^(node:)?timers\\/promises$/] ImportSpecifier[imported.name!='setImmediate']", message: OF_THE_CLOCK },
        { selector: "ImportDeclaration[source.value='node:perf_hooks']", message: OF_THE_CLOCK }]
    }
  },
  {
    files: ['plugins/*/*.ts'],
    rules: forbid({ regex: '^\\.\\./(?!shared/[^/]+$)', message: OWN_FOLDER })
  },
  {
    files: ['plugins/*/*/*.ts'],
    rules: forbid({ regex: '^\\.\\./\\.\\./(?!shared/[^/]+$)', message: OWN_FOLDER })
  },
  {
    files: ['plugins/shared/*.ts'],
    rules: forbid({ regex: '^\\.\\./', message: 'plugins/shared stands on nothing of this project.' })
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
    rules: forbid({ regex: '/test/', message: 'Nothing imports the tests.' })
  }
]
