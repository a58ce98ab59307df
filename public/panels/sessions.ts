import type { SessionEvent } from '../../demo/live-events.js'
import { send } from '../api.js'
import { announce, find, make, onPress, show, write } from '../dom.js'
import { clock } from '../format.js'

interface User {
  id: number
  email: string
  name: string
}

interface Device {
  handle: string
  createdAt: string
  address?: string
  userAgent?: string
  current: boolean
}

// The password of all demo users.
const PASSWORD = 'demo-password'

interface SessionsPanel {
  /** Called when a user logs in or out at any instance. */
  onSession (event: SessionEvent): void
  refresh (): Promise<void>
}

export function sessionsPanel (): SessionsPanel {
  let user: User | null = null

  function report (text: string): void {
    write('session-result', text)
    announce(text)
  }

  async function refresh (): Promise<void> {
    const { status, body } = await send<{ user: User | null, devices: Device[] }>('GET', '/live/session')
    if (status !== 200) return report(`The sessions cannot be read at the moment (${status}).`)
    if (user !== null && body.user === null) report('This session has ended: it was revoked elsewhere, or it expired.')
    user = body.user
    draw(user, body.devices, async handle => {
      await send('DELETE', `/me/sessions/${handle}`)
      report('Revoked: that device is logged out.')
      await refresh()
    })
  }

  async function logIn (email: string, credentials: RequestCredentials): Promise<boolean> {
    const { status } = await send('POST', '/login', { body: { email, password: PASSWORD }, credentials })
    if (status !== 200) report(status === 429 ? 'Too many requests: try again later.' : `The login failed (${status}).`)
    return status === 200
  }

  find('login', HTMLFormElement).addEventListener('submit', event => {
    event.preventDefault()
    logIn(find('user', HTMLSelectElement).value, 'same-origin').then(async isIn => {
      await refresh()
      if (isIn) report('Logged in with a new session id.')
    }).catch(() => report('The demo does not respond.'))
  })
  onPress('add-device', async () => {
    // Without the cookie, the request looks like one of another browser.
    if (user !== null && await logIn(user.email, 'omit')) report('Logged in again, as from another browser.')
    await refresh()
  })
  onPress('revoke-others', async () => {
    const { body } = await send<{ ended: number }>('DELETE', '/me/sessions')
    report(`Sessions revoked elsewhere: ${body.ended}.`)
    await refresh()
  })
  onPress('logout', async () => {
    user = null
    await send('POST', '/logout')
    report('Logged out.')
    await refresh()
  })

  return {
    refresh,
    onSession (event) {
      if (event.user === String(user?.id)) refresh().catch(() => {})
    }
  }
}

function draw (user: User | null, devices: readonly Device[], revoke: (handle: string) => Promise<void>): void {
  write(
    'session-user',
    user === null
      ? 'not logged in'
      : `${user.name} (id ${user.id}), ${devices.length === 1 ? 'one device' : `${devices.length} devices`}`
  )
  show('devices', user !== null)
  show('devices-empty', user === null)
  show('session-actions', user !== null)
  find('devices', HTMLTableElement).tBodies[0]?.replaceChildren(...devices.map(device => rowOf(device, revoke)))
}

function rowOf (
  { handle, createdAt, address = '', userAgent, current }: Device, revoke: (handle: string) => Promise<void>
): HTMLElement {
  const since = clock(Date.parse(createdAt))
  const name = make(
    'td', {}, make('b', { text: current ? 'This browser' : 'Another browser' }),
    make('span', { text: `${browserOf(userAgent)} ${address}` })
  )
  const button = make('button', { text: 'Revoke' })
  button.setAttribute('aria-label', `Revoke the ${current ? 'session of this browser' : `device of ${since}`}`)
  button.addEventListener('click', () => { revoke(handle).catch(() => {}) })
  return make(
    'tr', current ? { className: 'current' } : {}, name, make('td', { text: since }),
    make('td', { className: 'number' }, button)
  )
}

function browserOf (userAgent = ''): string {
  return /(Firefox|Edg|Chrome|Safari|curl)\b/.exec(userAgent)?.[1]?.replace('Edg', 'Edge') ?? 'unknown'
}
