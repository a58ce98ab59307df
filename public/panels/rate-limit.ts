import type { DecisionEvent, Hello, LiveEvent } from '../../demo/live-events.js'
import { send } from '../api.js'
import { announce, find, onPress, show, toggle, write } from '../dom.js'
import { number } from '../format.js'
import { Strip } from '../strip.js'

const BURST = 120
/** Six requests a second, of which the limit allows four on average. */
const STEADY_MS = 167

interface RateLimitPanel {
  onHello (hello: Hello): void
  onDecision (decision: LiveEvent<DecisionEvent>): void
}

export function rateLimitPanel (): RateLimitPanel {
  const strip = new Strip(find('strip', HTMLCanvasElement), showWindow)
  const total = { allowed: 0, refused: 0 }

  onPress('burst', async () => {
    const verdicts = await Promise.all(Array.from({ length: BURST }, () => sendLimited()))
    const allowed = verdicts.filter(isAllowed => isAllowed).length
    const text = `${allowed} of ${BURST} concurrent requests were allowed, ${BURST - allowed} refused.`
    write('limit-result', text)
    announce(text)
  })
  onPress('one', async () => write('limit-result', await sendLimited() ? 'Allowed.' : 'Refused.'))
  toggle('steady-sends', STEADY_MS, () => { sendLimited().catch(() => {}) })

  return {
    onHello ({ limit: { max, window } }) {
      strip.limit = { max, window }
      write('limit-rule', `${max} in any ${number(window / 1000)} s`)
    },
    onDecision ({ at, allowed }) {
      strip.add(at, allowed)
      total[allowed ? 'allowed' : 'refused']++
      write('limit-allowed', number(total.allowed))
      write('limit-refused', number(total.refused))
      show('strip-empty', false)
    }
  }
}

function showWindow (remaining: number, nextSlotMs: number): void {
  write('limit-remaining', number(remaining))
  write('limit-free', remaining > 0 ? 'now' : `${(nextSlotMs / 1000).toFixed(1)} s`)
}

/** Sends a request to the limited route. @returns whether it was allowed */
async function sendLimited (): Promise<boolean> {
  const { status, body } = await send<{ allowed: boolean }>('GET', '/live/limited')
  return status === 200 && body.allowed
}
