// For `node --import`: loads TypeScript, out of the folder TEST_COMPILED if test/run.ts has compiled it, else by tsx.
import module from 'node:module'
import { load, resolve } from './hooks.js'

if (process.env.TEST_COMPILED === undefined) await import('tsx')
else if (module.registerHooks === undefined) module.register('./hooks.js', import.meta.url)
else module.registerHooks({ load, resolve })
