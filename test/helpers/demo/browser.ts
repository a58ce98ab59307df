import { spawnSync } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { chromium, type Browser } from 'playwright-core'

const ARGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
const PLACES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']

/** Returns `CHROMIUM_PATH`, or else the usual path of a browser. */
function findChromium (): string | undefined {
  const given = process.env['CHROMIUM_PATH']
  return (given ? [given] : PLACES).find(path => {
    try {
      accessSync(path, constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

function install (): void {
  const root = process.getuid?.() === 0 ? [] : ['sudo', '-n']
  for (const command of [['apt-get', 'update', '-qq'], ['env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', 'install', '-qq', '-y', '--no-install-recommends', '-o', 'DPkg::Lock::Timeout=120', 'chromium']]) {
    const [file = '', ...args] = [...root, ...command]
    spawnSync(file, args, { stdio: 'ignore', timeout: 300_000 })
  }
}

/** Launches a browser; with `INSTALL_CHROMIUM` it installs one if there is none, which takes a minute. @returns undefined if there is none */
export async function launchBrowser (): Promise<Browser | undefined> {
  if (findChromium() === undefined && process.env['INSTALL_CHROMIUM']) install()
  const executablePath = findChromium()
  return executablePath === undefined ? undefined : await chromium.launch({ executablePath, args: ARGS })
}

export const NO_BROWSER = 'no Chromium here: install it, name it by CHROMIUM_PATH, or set INSTALL_CHROMIUM=1'
