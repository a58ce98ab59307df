import t from 'tap'
import { churn } from '../helpers/events/churn.js'
import '../helpers/index.js'

for (const store of ['redis', 'cluster'] as const) {
  for (let round = 1; round <= 5; round++) {
    t.test(`${store}: 1,000 random subscribers while connections break leave the requested subscriptions and no others (${round})`, async t => {
      await churn(t, { store, rounds: 1000, breakEvery: 100, random: Math.random })
    })
  }
}
