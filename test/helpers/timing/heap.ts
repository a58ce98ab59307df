import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

/** Returns the bytes in use after a garbage collection. */
export function heapInUse (): number {
  collectGarbage()
  return process.memoryUsage().heapUsed
}
