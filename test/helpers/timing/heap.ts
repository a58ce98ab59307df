import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

/** Bytes in use once what is not in use is gone. */
export function heapInUse (): number {
  collectGarbage()
  return process.memoryUsage().heapUsed
}
