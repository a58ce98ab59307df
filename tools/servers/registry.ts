// The running servers, so that one call stops all of them, whatever a test did.
export interface Stoppable {
  stop (): Promise<void>
}

const running = new Set<Stoppable>()

export function register (stoppable: Stoppable): void {
  running.add(stoppable)
}

export function unregister (stoppable: Stoppable): void {
  running.delete(stoppable)
}

export async function stopAll (): Promise<void> {
  await Promise.all([...running].map(stoppable => stoppable.stop()))
}
