import neostandard from 'neostandard'

// The arrows of the house (see CONTRIBUTING.md): a plugin reaches its own folder and plugins/shared, nothing else.
const forbid = (...patterns) => ({ 'no-restricted-imports': ['error', { patterns }] })
const OWN_FOLDER = 'A plugin imports its own folder and shared/ only; plugins meet through Fastify decorators.'

export default [
  ...neostandard({ ts: true, ignores: ['dist/**', 'coverage/**', '.tap/**', 'node_modules/**'] }),
  {
    files: ['**/*.ts'],
    rules: { '@typescript-eslint/no-explicit-any': 'error' }
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
    files: ['app.ts', 'server.ts', 'demo/**/*.ts'],
    rules: forbid({ regex: '/test/', message: 'Nothing imports the tests.' })
  }
]
