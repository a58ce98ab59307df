import type { BatchEvent, LiveEvent, Sample } from '../../demo/live-events.js'
import { send } from '../api.js'
import { Chart } from '../chart.js'
import { announce, find, make, onPress, show, toggle, write } from '../dom.js'
import { number } from '../format.js'

const VIEWS = 240
const STEADY_VIEWS = 24
const STEADY_MS = 1000
const TRAIL_LENGTH = 6

interface WriteBehindPanel {
  onBatch (event: LiveEvent<BatchEvent>): void
  onSample (sample: LiveEvent<Sample>): void
}

export function writeBehindPanel (): WriteBehindPanel {
  const chart = new Chart(find('backlog-chart', HTMLElement), [{ label: 'waiting views', filled: true }])
  const total = { accepted: 0, written: 0, statements: 0 }

  function report (text: string): void {
    write('views-result', text)
    announce(text)
  }

  async function count (views: number): Promise<void> {
    const { status, ms } = await send('POST', '/live/views', { body: { count: views } })
    if (status !== 200) {
      return report(status === 503
        ? 'Redis is unavailable (503): the views were not accepted.'
        : status === 429 ? 'Too many requests: try again later.' : `The request failed (${status}).`)
    }
    total.accepted += views
    write('views-accepted', number(total.accepted))
    report(`${views} views accepted in ${number(Math.round(ms))} ms, without a wait for the database.`)
  }

  onPress('views-add', async () => await count(VIEWS))
  toggle('views-steady', STEADY_MS, () => { count(STEADY_VIEWS).catch(() => {}) })
  onPress('views-pause', async () => {
    const { status, body } = await send<{ pausedMs: number }>('POST', '/live/views/pause')
    report(
      status === 200
        ? `The database refuses views for ${body.pausedMs / 1000} s: accepted views wait, and none is lost.`
        : `The request failed (${status}).`
    )
  })

  return {
    onBatch ({ views, products, ms, written, instance }) {
      if (written) {
        total.written += views
        total.statements++
        write('views-written', number(total.written))
        write('views-statements', number(total.statements))
      }
      const trail = find('views-trail', HTMLOListElement)
      const text = `${views} ${views === 1 ? 'view' : 'views'}`
      // One line for an outage, however many batches it refuses.
      if (!written && trail.firstElementChild?.className === 'bad') return
      trail.prepend(written
        ? make(
          'li', { className: 'written' }, make('b', { text }),
          make('span', { text: `${products} products, ${number(ms)} ms, ${instance}` })
        )
        : make(
          'li', { className: 'bad' }, make('b', { text: 'refused' }),
          make('span', { text: `the database is paused, so ${instance} retries` })
        ))
      while (trail.children.length > TRAIL_LENGTH) trail.lastElementChild?.remove()
      show('views-empty', false)
    },
    onSample ({ views }) {
      write('views-waiting', number(views.backlog))
      chart.add([views.backlog])
    }
  }
}
