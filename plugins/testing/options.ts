import { parseDuration } from '../shared/plugin/duration.js'
import { option } from '../shared/plugin/option-kinds.js'
import type { OptionTable } from '../shared/plugin/option-table.js'

export interface TestClockOptions {
  /**
   * The time at which the clock starts, in milliseconds since the epoch, rounded to whole ones.
   *
   * @default the system's time
   */
  now?: number | undefined
}

export const TEST_CLOCK_OPTIONS = {
  now: option({
    type: 'number',
    allowed: 'milliseconds since the epoch',
    fallbackText: "the system's time",
    parse: given => typeof given === 'number' ? parseDuration(given) : undefined
  })
} satisfies OptionTable<TestClockOptions>
