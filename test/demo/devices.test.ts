import t from 'tap'
import { DEMO_PASSWORD } from '../../demo/seed.js'
import { client } from '../helpers/app/client.js'
import { startShop, shopStores } from '../helpers/demo/start-shop.js'

t.test('a device that is logged out on one instance is out on the other at its next request', async t => {
  const [a, b = t.fail('two instances') as never] = await startShop(t, { env: (await shopStores()).Redis, instances: 2 })

  const devices = [client(a, '192.0.2.1'), client(a, '192.0.2.2'), client(a, '192.0.2.3')] as const
  for (const device of devices) t.equal((await device.send('POST', '/login', { email: 'user7@example.com', password: DEMO_PASSWORD })).statusCode, 200)
  const onB = devices.map((device, i) => {
    const same = client(b, `192.0.2.${i + 1}`)
    Object.assign(same.cookies, device.cookies)
    return same
  })
  const statuses = () => Promise.all(onB.map(async device => (await device.send('GET', '/me')).statusCode))
  t.same(await statuses(), [200, 200, 200])

  const list = (await onB[0]?.send('GET', '/me/sessions'))?.json() as Array<{ handle: string, address: string, current: boolean }>
  t.same(list.map(({ address }) => address).sort(), ['192.0.2.1', '192.0.2.2', '192.0.2.3'])
  t.same(list.filter(({ current }) => current).map(({ address }) => address), ['192.0.2.1'])
  const second = list.find(({ address }) => address === '192.0.2.2')
  t.equal((await devices[0].send('DELETE', `/me/sessions/${second?.handle}`)).statusCode, 200)
  t.same(await statuses(), [200, 401, 200])
  t.same((await devices[0].send('DELETE', '/me/sessions')).json(), { ended: 1 })
  t.same(await statuses(), [200, 401, 401])
})
