# Three servers on three hosts. The token goes through a variable, so it is also in Terraform's state: keep that as secret as the token.
#
#   TF_VAR_token=$(muster token new) terraform apply
terraform {
  required_version = ">= 1.5"
  required_providers {
    hcloud = {
      source  = "hetznercloud/hcloud"
      version = "~> 1.50"
    }
  }
}

variable "token" {
  description = "The output of muster token new"
  type        = string
  sensitive   = true
  validation {
    condition     = length(var.token) >= 16
    error_message = "The token has at least 16 characters: muster token new."
  }
}

variable "image" {
  description = "Snapshot that carries muster and its unit"
  type        = string
}

variable "founding" {
  description = "auto for the first apply; never from then on"
  type        = string
  default     = "auto"
}

locals {
  example = file("${path.module}/user-data.yaml")
  founded = replace(local.example, "servers = 3", "servers = 3\n      founding = \"${var.founding}\"")
}

resource "hcloud_network" "muster" {
  name     = "muster"
  ip_range = "10.0.0.0/16"
}

resource "hcloud_network_subnet" "muster" {
  network_id   = hcloud_network.muster.id
  type         = "cloud"
  network_zone = "eu-central"
  ip_range     = "10.0.0.0/24"
}

resource "hcloud_placement_group" "muster" {
  name = "muster"
  type = "spread"
}

resource "hcloud_server" "muster" {
  count              = 3
  name               = "muster-${count.index + 1}"
  server_type        = "cx22"
  location           = "nbg1"
  image              = var.image
  placement_group_id = hcloud_placement_group.muster.id
  user_data          = replace(local.founded, "<replace this line: the output of muster token new>", var.token)
  network {
    network_id = hcloud_network.muster.id
    ip         = "10.0.0.1${count.index + 1}"
  }
  # A server that runs is not replaced because the user-data of new ones changed.
  lifecycle {
    ignore_changes = [user_data]
  }
  depends_on = [hcloud_network_subnet.muster]
}
