import t from 'tap'
import { importPackage } from '../../plugins/shared/plugin/optional-packages.js'

t.test('a package that is not installed is an error with a code, which names the command that installs it', async t => {
  const isMissing = { code: 'FST_REDIS_SUITE_METRICS_MISSING_PACKAGE', statusCode: 500, message: 'metrics: the package no-such-package is not installed: run "npm install no-such-package"' }
  const name: string = 'no-such-package'
  await t.rejects(importPackage('metrics', name, () => import(name)), isMissing)
  const ofCommonJS = Object.assign(new Error("Cannot find module 'no-such-package'"), { code: 'MODULE_NOT_FOUND' })
  await t.rejects(importPackage('metrics', name, async () => { throw ofCommonJS }), isMissing)
})

t.test('another failure of the import is passed on: one in the package, or a package that is missing within it', async t => {
  const failures = [new Error('broken'), Object.assign(new Error("Cannot find package 'tdigest' imported from prom-client"), { code: 'ERR_MODULE_NOT_FOUND' })]
  for (const failure of failures) {
    t.equal(await importPackage('metrics', 'no-such-package', async () => { throw failure }).catch((error: unknown) => error), failure)
  }
  t.equal(await importPackage('metrics', 'no-such-package', async () => 'loaded'), 'loaded')
})
