//! Python's `random.shuffle`, which the order of a benchmark comes from.
//!
//! M. Matsumoto, T. Nishimura: *Mersenne Twister: A 623-dimensionally equidistributed uniform
//! pseudorandom number generator*, 1998.

/// What `l = list(range(count)); random.seed(seed); random.shuffle(l)` leaves in `l`.
pub(super) fn shuffled(count: u16, seed: u32) -> Vec<u16> {
    let mut list: Vec<u16> = (0..count).collect();
    let mut rng = MersenneTwister::new(seed);
    for i in (1..list.len()).rev() {
        let j = rng.below(i as u32 + 1) as usize;
        list.swap(i, j);
    }
    list
}

/// MT19937.
struct MersenneTwister {
    state: [u32; SIZE],
    at: usize,
}

const SIZE: usize = 624;

/// How far apart the words are that are mixed.
const REACH: usize = 397;

impl MersenneTwister {
    /// Seeded as Python does by an integer of one word.
    fn new(seed: u32) -> Self {
        let mut state = [19_650_218; SIZE];
        for i in 1..SIZE {
            state[i] = mixed(state[i - 1]).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        // Each word is visited once with the seed, and but one of them again.
        let mut i = 1;
        let mut visit = |factor: u32, change: &dyn Fn(u32, usize) -> u32| {
            state[i] = change(state[i] ^ mixed(state[i - 1]).wrapping_mul(factor), i);
            i += 1;
            if i == SIZE {
                state[0] = state[SIZE - 1];
                i = 1;
            }
        };
        for _ in 0..SIZE {
            visit(1_664_525, &|word, _| word.wrapping_add(seed));
        }
        for _ in 1..SIZE {
            visit(1_566_083_941, &|word, i| word.wrapping_sub(i as u32));
        }
        state[0] = 1 << 31;
        MersenneTwister { state, at: SIZE }
    }

    fn next(&mut self) -> u32 {
        if self.at == SIZE {
            self.twist();
        }
        let mut word = self.state[self.at];
        self.at += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    fn twist(&mut self) {
        for i in 0..SIZE {
            let (this, next) = (self.state[i], self.state[(i + 1) % SIZE]);
            let joined = this & 0x8000_0000 | next & 0x7fff_ffff;
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + REACH) % SIZE] ^ joined >> 1 ^ odd;
        }
        self.at = 0;
    }

    /// A number below `bound`, by as many bits as it takes until they are below it.
    fn below(&mut self, bound: u32) -> u32 {
        let bits = u32::BITS - bound.leading_zeros();
        loop {
            let number = self.next() >> (u32::BITS - bits);
            if number < bound {
                return number;
            }
        }
    }
}

fn mixed(word: u32) -> u32 {
    word ^ word >> 30
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_shuffled_as_python_does() {
        // >>> l = list(range(10)); random.seed(88); random.shuffle(l); l
        assert_eq!(shuffled(10, 88), [8, 2, 9, 4, 0, 7, 1, 5, 3, 6]);
        assert_eq!(shuffled(15_625, 88)[15_622..], [5452, 3104, 6512]);
    }
}
