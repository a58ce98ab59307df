// `FUZZ_RUNS` sets the number of runs.
import t from 'tap'
import { fuzzKeys } from '../helpers/fuzz/keys.js'
import { fuzzOptions } from '../helpers/fuzz/options.js'
import { fuzzStoredBytes } from '../helpers/fuzz/stored-bytes.js'
import { scaled } from '../helpers/stress/scale.js'

const RUNS = Number(process.env['FUZZ_RUNS'] ?? Math.max(25, scaled(100)))

t.test('each key of each plugin reads {prefix}:{plugin}:{what}:{id} and has a TTL, whatever the ids', t => fuzzKeys(t, RUNS))

t.test('requests are answered, nothing crashes and keys stay under the prefix, whatever is stored in Redis', t => fuzzStoredBytes(t, RUNS, Date.now() % 2 ** 32))

fuzzOptions(t, RUNS)
