/** The order in which hosts are tried: shuffled, and behind the others those that failed, the last one last. Plain state. */

/** How long a failure is held against a host after the connection has been stable elsewhere, in milliseconds. */
const FORGIVEN_AFTER = 60_000;

/** A copy in random order, every order as likely as any other (Fisher and Yates): so that a fleet spreads over its brokers. */
export function shuffled<T>(list: readonly T[], random: () => number = Math.random): T[] {
  const result = [...list];
  for (let left = result.length - 1; left > 0; left -= 1) {
    const chosen = Math.floor(random() * (left + 1));
    [result[left], result[chosen]] = [result[chosen] as T, result[left] as T];
  }
  return result;
}

/**
 * Which hosts have failed, and when. While nothing works every host has its turn, the one that failed longest ago first;
 * a failure is forgotten when the host works, or in time when another does.
 */
export class HostFailures<T> {
  /** In the order of the failures. */
  readonly #failedAt = new Map<T, number>();

  /** The host to try: the first that has not failed, else the one whose failure is the oldest. Undefined for no hosts. */
  first(hosts: readonly T[]): T | undefined {
    for (const gone of [...this.#failedAt.keys()].filter((host) => !hosts.includes(host))) this.#failedAt.delete(gone);
    return hosts.find((host) => !this.#failedAt.has(host)) ?? this.#failedAt.keys().next().value;
  }

  failed(host: T): void {
    // Anew at the end of the map, which keeps the place of a key that is set again.
    this.#failedAt.delete(host);
    this.#failedAt.set(host, performance.now());
  }

  /** The connection to this host was stable: it keeps its place, and what others did long ago is forgotten as well. */
  wasStable(host: T): void {
    this.#failedAt.delete(host);
    const old = performance.now() - FORGIVEN_AFTER;
    // Not by time alone: in a long outage the first of many hosts would have their next turn before the last had any.
    for (const [other, at] of this.#failedAt) if (at < old) this.#failedAt.delete(other);
  }
}
