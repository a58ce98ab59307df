import type { Counter } from './counter.js'
import { GenericCellRate } from './gcra.js'
import type { Policy } from '../policy.js'
import { SlidingCounter } from './sliding-counter.js'
import { SlidingLog } from './sliding-log.js'

export function createCounter ({ algorithm, limits }: Policy): Counter {
  switch (algorithm) {
    case 'sliding-log': return new SlidingLog(Math.max(...limits.map(limit => limit.max)))
    case 'sliding-counter': return new SlidingCounter()
    case 'gcra': return new GenericCellRate()
  }
}
