import type { LiveEvent, ParcelEvent, Sample } from '../../demo/live-events.js'
import { send } from '../api.js'
import { announce, find, make, onPress, show, write } from '../dom.js'
import { number } from '../format.js'

const PARCELS = 6
const CUSTOMERS = ['ann', 'bob', 'eve']
/** The number of parcels that are shown for each customer. */
const LANE_LENGTH = 8
const STATES = {
  appended: 'waiting', taken: 'in progress', handled: 'handled', failed: 'will be retried', dead: 'dead letter'
} as const

interface StreamsPanel {
  onParcel (event: LiveEvent<ParcelEvent>): void
  onSample (sample: LiveEvent<Sample>): void
}

export function streamsPanel (): StreamsPanel {
  const chips = new Map<string, HTMLElement>()
  let handled = 0

  function report (text: string): void {
    write('stream-result', text)
    announce(text)
  }

  async function request (
    method: 'POST' | 'DELETE', path: string, body: object | undefined, textOf: (count: number) => string
  ): Promise<void> {
    const { status, body: response } = await send<Record<string, number>>(method, path, body && { body })
    report(status === 200
      ? textOf(Object.values(response)[0] ?? 0)
      : status === 503
        ? 'Redis is unavailable (503): nothing was appended, and what is in the stream waits there.'
        : status === 429 ? 'Too many requests: try again later.' : `The request failed (${status}).`)
  }

  onPress('stream-append', async () => await request('POST', '/live/parcels', { count: PARCELS },
    count =>
      `${count} parcels appended: the group's instances share them, and the parcels of a customer are handled in ` +
      'order.'))
  onPress('stream-damage', async () => await request('POST', '/live/parcels', { count: 1, damaged: true },
    () =>
      'A damaged parcel: its handler fails three times, then it becomes a dead letter. Other customers do not wait ' +
      'for it.'))
  onPress('stream-replay', async () => await request('POST', '/live/parcels/replay', undefined,
    count =>
      count === 0
        ? 'There are no dead letters.'
        : `Handler fixed: ${count} dead ${count === 1 ? 'letter is' : 'letters are'} handled again.`))
  onPress('stream-discard', async () =>
    await request('DELETE', '/live/parcels/dead', undefined, count => `Dead letters discarded: ${count}.`))

  function chipOf (id: string, customer: string): HTMLElement {
    const present = chips.get(id)
    if (present !== undefined) return present
    const chip = make('li', {}, make('b'), make('span'))
    chips.set(id, chip)
    const lane = find(`parcels-${CUSTOMERS.includes(customer) ? customer : 'eve'}`, HTMLOListElement)
    lane.prepend(chip)
    if (lane.children.length > LANE_LENGTH) {
      const oldest = lane.lastElementChild
      for (const [key, value] of chips) if (value === oldest) chips.delete(key)
      oldest?.remove()
    }
    show('parcels-empty', false)
    return chip
  }

  return {
    onParcel ({ id, customer, what, attempt, instance }) {
      if (what === 'handled') write('stream-handled', number(++handled))
      // The step of another instance may arrive before the event that the parcel was appended.
      if (what === 'appended' && chips.has(id)) return
      const chip = chipOf(id, customer)
      chip.dataset['step'] = what
      chip.firstElementChild?.replaceChildren(STATES[what])
      chip.lastElementChild?.replaceChildren(
        what === 'appended' ? '' : what !== 'handled' && attempt > 1 ? `attempt ${attempt}` : instance
      )
    },
    onSample ({ parcels }) {
      write('stream-length', number(parcels?.length))
      write('stream-lag', number(parcels?.lag))
      write('stream-pending', number(parcels?.pending))
      write('stream-dead', number(parcels?.deadLetters))
    }
  }
}
