import t from 'tap'
import '../helpers/index.js'
import { testRaces } from '../helpers/session/races.js'

await testRaces(t, { counts: { redis: 100, cluster: 40 } })
