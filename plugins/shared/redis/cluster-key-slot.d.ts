declare module 'cluster-key-slot' {
  /** Returns the slot of a key in a Cluster: 0 to 16383. */
  export default function calculateSlot (key: string | Buffer): number
}
