// One folder for everything that this process starts. The folder of a server contains its pid while it runs, so that a
// server that is left when this process dies can be killed and its folder removed, even after SIGKILL.
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const CLEAN = 'for f in "$1"/*/pid; do [ -f "$f" ] && kill -9 "$(cat "$f")" 2>/dev/null; done; rm -rf "$1"'

let root: string | undefined

export function scratchDir (): string {
  root ??= makeRoot()
  return mkdtempSync(join(root, 'server-'))
}

export function notePid (dir: string, pid: number): void {
  writeFileSync(join(dir, 'pid'), String(pid))
}

// Without this, the clean-up could kill another process with a reused pid.
export function forgetPid (dir: string): void {
  rmSync(join(dir, 'pid'), { force: true })
}

function makeRoot (): string {
  const dir = mkdtempSync(join(tmpdir(), 'redis-suite-'))
  watch(dir)
  process.once('exit', () => spawnSync('sh', ['-c', CLEAN, 'clean', dir]))
  return dir
}

// Its standard input ends with this process, even if a signal kills it.
function watch (dir: string): void {
  const watchdog = spawn('sh', ['-c', `cat >/dev/null; ${CLEAN}`, 'watchdog', dir], {
    cwd: '/',
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore']
  })
  watchdog.on('error', () => {})
  watchdog.unref()
  ;(watchdog.stdin as unknown as { unref (): void }).unref()
}
