// `FUZZ_RUNS` sets the number of requests.
import t, { type Test } from 'tap'
import { sendOddRequests } from '../helpers/demo/odd-requests.js'
import { startShop } from '../helpers/demo/start-shop.js'
import { scaled } from '../helpers/stress/scale.js'

const RUNS = Number(process.env['FUZZ_RUNS'] ?? scaled(2000))

t.test('no random malformed request gets a status of 500 or above', { timeout: 600_000 }, async t => {
  const [app] = await startShop(t as Test)
  const statuses = await sendOddRequests(app, { numRuns: RUNS })
  t.same([200, 400, 401, 404].filter(status => !statuses.has(status)), [], 'the requests reach the routes')
})
