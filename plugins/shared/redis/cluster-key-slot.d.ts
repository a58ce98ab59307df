declare module 'cluster-key-slot' {
  /** The slot of a Cluster that a key lies in: from 0 to 16383. */
  export default function calculateSlot (key: string | Buffer): number
}
