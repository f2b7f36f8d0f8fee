//! What a suspend or a reset takes from a card: all that is in its memory and its caches.

use crate::gpu::Gpu;

impl Gpu {
    /// Video memory loses its contents and reads zeros, as memory that was scrubbed does; the caches of the MMU are
    /// empty; nobody translates any more, so that every root is unknown until it is used again. Registers, system
    /// memory and the memory of peers stay as they are. Not counted.
    pub fn lose_vram(&mut self) {
        self.model.op += 1;
        self.model.lose_vram(|_| 0);
    }
}

#[cfg(test)]
mod tests {
    use crate::{AccessKind, Client, Config, Gpu};
    use gmmu::addr::TableAddr;

    #[test]
    fn video_memory_and_caches_are_lost_and_system_memory_is_not() {
        let mut gpu = Gpu::new(&Config::chip("gh100")).expect("a chip");
        let root = TableAddr::vram(0x10_0000);
        gpu.note_table_taken(root, 4096);
        gpu.load_vram(root.raw(), &[0; 4096]);
        gpu.note_root(root);
        gpu.load_vram(0x20_0000, &[7; 8]);
        gpu.load_sys(0x20_0000, &[9; 8]);
        let fault = gpu.access(Client::Engine { pdb: root }, 0x1000, AccessKind::Read, false).expect_err("empty");
        gpu.lose_vram();
        assert_eq!(gpu.peek_word(TableAddr::vram(0x20_0000)), 0);
        let mut bytes = [0; 8];
        gpu.peek_sys(0x20_0000, &mut bytes);
        assert_eq!(bytes, [9; 8]);
        // A directory that an engine had cached as empty is not stale: the cache is gone.
        gpu.load_vram(root.raw(), &0x10_1002u64.to_le_bytes());
        gpu.load_vram(0x10_1000, &[0; 4096]);
        let later = gpu.access(Client::Engine { pdb: root }, 0x1000, AccessKind::Read, false).expect_err("empty");
        assert_eq!((fault.level, later.level), ("PDE4", "PDE3"));
        // Nor is memory in use that nobody reaches any more.
        gpu.lose_vram();
        gpu.note_table_freed(root, 4096);
        assert_eq!(gpu.findings(), []);
    }
}
