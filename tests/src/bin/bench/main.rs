//! `cargo xtask bench`.

mod cost;
mod frames;
mod peers;
mod report;
mod stats;

use report::Report;

fn main() {
    let mut report = Report::default();
    cost::measure(&mut report, cost::Effort { rounds: 41, repeat: 200_000 });
    println!("{}", report.markdown());
}
