import t from 'tap'
import { readConfig } from '../../demo/config.js'
import { hashPassword, verifyPassword } from '../../demo/password.js'

t.test('without any variable the demo has its defaults', async t => {
  t.match(readConfig({}), { HOST: '127.0.0.1', PORT: 3000, LOG_LEVEL: 'info', RATE_LIMIT_MAX: 100, TRUST_PROXY: false, DRAIN_DELAY: 0, MAX_EVENT_LOOP_DELAY: 1000, isSecretTemporary: true, clusterNodes: undefined })
  t.not(readConfig({}).SESSION_SECRET, readConfig({}).SESSION_SECRET, 'each start makes a secret of its own')
})

t.test('variables are read, and empty ones are as none', async t => {
  const config = readConfig({ PORT: '8080', TRUST_PROXY: 'true', REDIS_CLUSTER: 'a:7000, b.example:7001', SESSION_SECRET: 'x'.repeat(32), REDIS_URL: '', UNRELATED: '1' })
  t.match(config, { PORT: 8080, TRUST_PROXY: true, isSecretTemporary: false, clusterNodes: [{ host: 'a', port: 7000 }, { host: 'b.example', port: 7001 }] })
})

t.test('a wrong value is an error that names the variable', async t => {
  const wrong: NodeJS.ProcessEnv[] = [{ PORT: 'http' }, { PORT: '70000' }, { LOG_LEVEL: 'loud' }, { SESSION_SECRET: 'short' }, { REDIS_CLUSTER: 'localhost' },
    { RATE_LIMIT_MAX: '-1' }, { TRUST_PROXY: 'perhaps' }]
  for (const env of wrong) t.throws(() => readConfig(env), { message: new RegExp(Object.keys(env)[0] ?? '') }, JSON.stringify(env))
  t.throws(() => readConfig({ REDIS_URL: 'redis://x', REDIS_CLUSTER: 'x:1' }), /not both/)
})

t.test('a password fits its own hash alone', async t => {
  const hash = await hashPassword('secret')
  t.equal(await verifyPassword('secret', hash), true)
  t.equal(await verifyPassword('Secret', hash), false)
  t.equal(await verifyPassword('secret', undefined), false)
  t.equal(await verifyPassword('', ':'), false)
})
