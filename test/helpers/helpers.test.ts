import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import t from 'tap'
import { startProxy, startRedis } from './index.js'
import { clientOf, isListening, isRunning, nothingLeft } from './servers/inspect.js'
import { stopAll } from '../../tools/servers/registry.js'

async function answersWithin (ms: number, client: Redis): Promise<boolean> {
  return await Promise.race([client.ping().then(() => true, () => false), sleep(ms, false, { ref: false })])
}

t.test('a server answers on its own port, as the process that was started, and stop leaves nothing', async t => {
  const [one, two] = await Promise.all([startRedis(), startRedis()])
  t.not(one.port, two.port)
  for (const server of [one, two]) {
    t.equal(await clientOf(t, server.url).ping(), 'PONG')
    t.match(await server.client().info('server'), `process_id:${server.pid}\r`)
    t.ok(isRunning(server.pid))
    await server.stop()
    await server.stop()
  }
  nothingLeft(t, [one, two])
})

t.test('a paused server keeps its sockets and does not reply; once resumed, it replies to the commands sent meanwhile', async t => {
  const server = await startRedis()
  const client = clientOf(t, server.url)
  await client.set('kept', '1')
  server.pause()
  t.notOk(server.answers)
  const answer = client.get('kept')
  t.notOk(await answersWithin(100, client))
  t.ok(await isListening(server.port))
  server.resume()
  t.equal(await answer, '1')
  t.ok(server.answers)

  server.pause()
  await server.stop()
  t.throws(() => server.pause(), /not running/)
  nothingLeft(t, [server])
})

t.test('a killed server refuses connections, and restart brings it back empty on the same port', async t => {
  const server = await startRedis()
  const client = clientOf(t, server.url)
  await client.set('lost', '1')
  const { pid, port } = server
  await server.kill()
  t.notOk(isRunning(pid))
  t.notOk(await isListening(port))
  await server.restart()
  t.equal(server.port, port)
  t.not(server.pid, pid)
  t.equal(await client.get('lost'), null)
  t.equal(await server.client().ping(), 'PONG', 'the admin client is back as well')
  await server.stop()
})

t.test('a server with TLS and a password accepts clients that trust its certificate and have the password, by either name', async t => {
  const server = await startRedis({ tls: true, password: 'open "sesame" \\ #1' })
  t.equal(await clientOf(t, server.url, { tls: { ca: server.ca } }).ping(), 'PONG')
  const byName = server.url.replace('127.0.0.1', 'localhost')
  t.equal(await clientOf(t, byName, { tls: { ca: server.cert }, family: 4 }).ping(), 'PONG')

  const [distrust] = await once(clientOf(t, server.url), 'error') as [Error & { code: string }]
  t.equal(distrust.code, 'DEPTH_ZERO_SELF_SIGNED_CERT')
  const wrong = clientOf(t, `rediss://:wrong@127.0.0.1:${server.port}`, { tls: { ca: server.ca }, retryStrategy: () => null })
  await t.rejects(wrong.ping(), /WRONGPASS/)

  await server.restart()
  t.equal(await server.client().ping(), 'PONG')
  await server.stop()
})

t.test('options reach the server: ACL users, memory limit and policy, and command line arguments', async t => {
  const server = await startRedis({
    acl: ['app on >secret ~app:* +@all'],
    maxmemory: '8mb',
    maxmemoryPolicy: 'volatile-lru',
    args: ['--maxclients', '77']
  })
  const app = clientOf(t, `redis://app:secret@127.0.0.1:${server.port}`)
  t.equal(await app.set('app:mine', '1'), 'OK')
  await t.rejects(app.set('other', '1'), /NOPERM/)
  const setting = async (name: string) => (await server.client().config('GET', name) as string[])[1]
  t.equal(await setting('maxmemory'), String(8 * 1024 ** 2))
  t.equal(await setting('maxmemory-policy'), 'volatile-lru')
  t.equal(await setting('maxclients'), '77')
  await server.stop()
})

t.test('a given port is used, and a server that cannot start reports why and leaves nothing', async t => {
  const server = await startRedis()
  await t.rejects(startRedis({ port: server.port }), /Address already in use/)
  await t.rejects(startRedis({ args: ['--no-such-option', '1'] }), /no-such-option/)
  t.equal(await server.client().ping(), 'PONG', 'the owner of the port is left alone')
  const { port } = server
  await server.stop()
  const next = await startRedis({ port })
  t.equal(next.port, port)
  await next.stop()
})

t.test('a proxy forwards everything in order, delays replies, holds them back and severs connections', async t => {
  const server = await startRedis()
  const proxy = await startProxy(server.port)
  const client = clientOf(t, `redis://127.0.0.1:${proxy.port}`)
  const big = 'x'.repeat(5_000_000)
  await client.set('big', big)
  t.ok(await client.get('big') === big)

  proxy.delay(100)
  const asked = performance.now()
  await client.echo('0')
  t.ok(performance.now() - asked >= 95)
  const answers: number[] = []
  const inFlight = [1, 2, 3].map(async n => { answers.push(Number(await client.echo(String(n)))) })
  await sleep(20)
  proxy.delay(0)
  await Promise.all([...inFlight, client.echo('4').then(n => answers.push(Number(n)))])
  t.same(answers, [1, 2, 3, 4])

  proxy.blackhole(true)
  t.notOk(await answersWithin(100, client))
  const late = clientOf(t, `redis://127.0.0.1:${proxy.port}`)
  t.notOk(await answersWithin(100, late), 'a new connection is accepted and not answered')
  t.equal(client.status, 'ready')
  proxy.blackhole(false)
  t.ok(await answersWithin(5000, client))
  t.ok(await answersWithin(5000, late))

  const closed = once(client, 'close')
  proxy.sever()
  await closed
  t.equal(await client.ping(), 'PONG', 'it reconnects')

  await server.kill()
  t.notOk(await answersWithin(100, client))
  await server.restart()
  t.equal(await client.ping(), 'PONG')
  await proxy.stop()
  await proxy.stop()
  t.notOk(await isListening(proxy.port))
  await server.stop()
})

t.test('stopAll stops all servers and proxies that still run', async t => {
  const server = await startRedis()
  const proxy = await startProxy(server.port)
  await stopAll()
  nothingLeft(t, [server])
  t.notOk(await isListening(proxy.port))
})
