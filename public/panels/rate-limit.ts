import type { DecisionTold, Hello, LiveEvent } from '../../demo/live-events.js'
import { send } from '../api.js'
import { announce, find, onPress, show, toggle, write } from '../dom.js'
import { number } from '../format.js'
import { Strip } from '../strip.js'

const BURST = 120
/** Six a second, where four are allowed in the long run. */
const STEADY_MS = 167

interface RateLimitPanel {
  hello (hello: Hello): void
  decided (decision: LiveEvent<DecisionTold>): void
}

export function rateLimitPanel (): RateLimitPanel {
  const strip = new Strip(find('strip', HTMLCanvasElement), showWindow)
  const total = { allowed: 0, refused: 0 }

  onPress('burst', async () => {
    const verdicts = await Promise.all(Array.from({ length: BURST }, () => ask()))
    const allowed = verdicts.filter(isAllowed => isAllowed).length
    const text = `Of ${BURST} sent at once ${allowed} were allowed and ${BURST - allowed} refused.`
    write('limit-result', text)
    announce(text)
  })
  onPress('one', async () => write('limit-result', await ask() ? 'Allowed.' : 'Refused.'))
  toggle('steady-sends', STEADY_MS, () => { ask().catch(() => {}) })

  return {
    hello ({ limit: { max, window } }) {
      strip.limit = { max, window }
      write('limit-rule', `${max} in any ${number(window / 1000)} s`)
    },
    decided ({ at, allowed }) {
      strip.add(at, allowed)
      total[allowed ? 'allowed' : 'refused']++
      write('limit-allowed', number(total.allowed))
      write('limit-refused', number(total.refused))
      show('strip-empty', false)
    }
  }
}

function showWindow (remaining: number, freeInMs: number): void {
  write('limit-remaining', number(remaining))
  write('limit-free', remaining > 0 ? 'now' : `in ${(freeInMs / 1000).toFixed(1)} s`)
}

/** @returns whether it was allowed */
async function ask (): Promise<boolean> {
  const { status, body } = await send<{ allowed: boolean }>('GET', '/live/limited')
  return status === 200 && body.allowed
}
