// Makes the pictures of the live page in docs/images, with some load on the demo: `npm run screenshots`.
import { mkdirSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Browser } from 'playwright-core'
import { buildApp } from '../../app.js'
import { readConfig } from '../../demo/config.js'
import { launchBrowser, NO_BROWSER } from './browser.js'
import { stopAll } from './registry.js'
import { startRedis } from './redis-server.js'

const FOLDER = join(import.meta.dirname, '../../docs/images')
/** So that the charts show something. */
const LOAD_MS = Number(process.env['LOAD_MS'] ?? 45_000)

const PICTURES = [
  { name: 'live-light', width: 1360, height: 900, colorScheme: 'light' },
  { name: 'live-dark', width: 1360, height: 900, colorScheme: 'dark' },
  { name: 'live-narrow', width: 360, height: 800, colorScheme: 'light' }
] as const

async function take (browser: Browser, url: string, { name, width, height, colorScheme }: typeof PICTURES[number]): Promise<void> {
  const page = await browser.newPage({ viewport: { width, height }, colorScheme, reducedMotion: 'reduce' })
  await page.goto(url)
  await page.click('#login button')
  await page.click('#add-device')
  await page.click('#steady-reads')
  await page.click('#steady-sends')
  const until = Date.now() + LOAD_MS
  for (let i = 0; Date.now() < until; i++) {
    await sleep(3000)
    await page.click(i % 3 === 2 ? '#invalidate' : '#read')
    if (i % 4 === 1) await page.click('#burst')
  }
  await sleep(2000)
  await page.screenshot({ path: join(FOLDER, `${name}.png`), fullPage: true })
  await page.close()
}

const browser = await launchBrowser()
if (browser === undefined) throw new Error(NO_BROWSER)
mkdirSync(FOLDER, { recursive: true })
const redis = await startRedis()
const config = readConfig({ REDIS_URL: redis.url })
const apps = [await buildApp(config), await buildApp(config)] as const
for (const app of apps) await app.listen({ port: 0, host: '127.0.0.1' })
const [url = ''] = apps.map(app => `http://127.0.0.1:${(app.server.address() as AddressInfo).port}/`)
await Promise.all(PICTURES.map(async picture => await take(browser, url, picture)))
await browser.close()
for (const app of apps) await app.close()
await stopAll()
