import type { DecisionEvent, Hello, LiveEvent, Sample } from '../../demo/live-events.js'
import { send } from '../api.js'
import { announce, find, onPress, show, toggle, write } from '../dom.js'
import { number } from '../format.js'
import { Strip } from '../strip.js'

const BURST = 120
/** Six requests a second, of which the limit allows four on average. */
const STEADY_MS = 167
/** How long the page shows that an instance has decided by itself. */
const LOCAL_MS = 3000

interface RateLimitPanel {
  onHello (hello: Hello): void
  onDecision (decision: LiveEvent<DecisionEvent>): void
  /** Called each second, with the latest sample of each instance. */
  onSamples (samples: ReadonlyArray<LiveEvent<Sample>>): void
}

export function rateLimitPanel (): RateLimitPanel {
  const strip = new Strip(find('strip', HTMLCanvasElement), showWindow)
  const total = { allowed: 0, refused: 0 }
  let max = 0
  let localUntil = 0
  /** While Redis is unavailable, other instances cannot report. */
  let instances = 1

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
    onHello ({ limit }) {
      const { window } = limit
      max = limit.max
      strip.limit = limit
      write('limit-rule', `${max} in any ${number(window / 1000)} s`)
    },
    onDecision ({ at, allowed, isLocal }) {
      if (isLocal) localUntil = performance.now() + LOCAL_MS
      strip.add(at, allowed)
      total[allowed ? 'allowed' : 'refused']++
      write('limit-allowed', number(total.allowed))
      write('limit-refused', number(total.refused))
      show('strip-empty', false)
    },
    onSamples (samples) {
      const isLocal = performance.now() < localUntil || samples.some(({ store }) => store.circuit === 'open')
      instances = isLocal ? Math.max(instances, samples.length) : samples.length
      if (isLocal) {
        write('limit-local', `Redis is unavailable, so each instance decides locally, by counters of its own that start at zero. ${instances === 1
          ? `This instance allows at most ${max}.`
          : `The ${instances} instances together may allow up to ${instances * max}.`}`)
      }
      show('limit-local', isLocal)
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
