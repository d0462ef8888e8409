/** The time, for texts such as “5 min ago”; it ticks only while something reads it. */
import { createSubscriber } from 'svelte/reactivity';

const subscribe = createSubscriber((update) => {
  const ticking = setInterval(update, 5_000);
  return () => clearInterval(ticking);
});

export const clock = {
  get now(): number {
    subscribe();
    return Date.now();
  },
};
