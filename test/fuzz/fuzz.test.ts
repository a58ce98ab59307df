// A fixed seed for each, so that every run is the same; test/stress/fuzz.test.ts has further seeds and more runs.
import t from 'tap'
import { fuzzKeys } from '../helpers/fuzz/keys.js'
import { fuzzOptions } from '../helpers/fuzz/options.js'
import { fuzzStoredBytes } from '../helpers/fuzz/stored-bytes.js'

const SEED = 16

t.test('each key of each plugin reads {prefix}:{plugin}:{what}:{id} and has a TTL, whatever the ids', t => fuzzKeys(t, 30, SEED))

t.test('requests are answered, nothing crashes and keys stay under the prefix, whatever is stored in Redis', t => fuzzStoredBytes(t, 30, SEED))

fuzzOptions(t, 60, SEED)
